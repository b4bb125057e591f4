"""``repurpose-hpc report``: the command, and what a browser makes of its page.

The tests in a browser need selenium and Debian's packages chromium and chromium-driver.
"""

import html
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from helpers import ROOT
from helpers.reports import report_of
from helpers.small_plans import write_samples, write_shards
from repurpose_hpc.commands import report
from repurpose_hpc.commands.start import Context
from repurpose_hpc.errors import Note, UsageError, UserError
from repurpose_hpc.report.provenance import origin_of
from repurpose_hpc.report.schema import REPORTS, problems
from repurpose_hpc.report.sources import open_source

CONTEXT = Context(1, 0.0, 0.0)
SIZES = {"phone": (360, 740), "tablet": (820, 1180), "desktop": (1440, 900)}
EVENT = {"ph": "X", "pid": 0, "tid": 0, "name": "one", "cat": "compute", "ts": 5.0, "dur": 10.0}
# Elements that a user sees, whose boxes reach beyond the window without a box around them that scrolls; and
# pairs of figures, headings and texts of the same picture that cover each other.
BEYOND = """
const scrolls = e => e
  && (['auto', 'scroll'].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
return [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().width
  && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
  && !e.closest('svg *') && !scrolls(e)).map(e => e.outerHTML.slice(0, 80))"""
COVERED = """
const cover = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
  && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
const found = [], groups = [[...document.querySelectorAll('h2, figure, nav, header h1')]];
for (const svg of document.querySelectorAll('svg')) groups.push([...svg.querySelectorAll('text')]);
for (const figure of document.querySelectorAll('figure')) groups.push([...figure.children]);
for (const group of groups) group.forEach((a, i) => group.slice(i + 1).forEach(b => {
  if (cover(a.getBoundingClientRect(), b.getBoundingClientRect()))
    found.push([a.textContent.slice(0, 40), b.textContent.slice(0, 40)]) }));
return found"""
FOCUSABLE = """
return [...document.querySelectorAll("a[href], summary, [tabindex='0']")]
  .filter(e => e.tagName === 'SUMMARY' || !e.closest('details:not([open])')).length"""
SMALL_TEXT = """
return [...document.querySelectorAll('svg text')].filter(e => {
  const box = e.getBoundingClientRect();
  return Math.min(box.width, box.height) < 8 && e.textContent.trim().length > 1 }).map(e => e.textContent)"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Shards, and a report and a trace."""
    folder = tmp_path_factory.mktemp("files")
    write_shards(folder / "shards", 3, "partitioned")
    (folder / "cut.json").write_text(json.dumps(report_of("restructure")))
    (folder / "infer.json").write_text(json.dumps(report_of("infer")))
    (folder / "trace.json").write_text(
        json.dumps({"traceEvents": [EVENT, EVENT | {"pid": 1, "cat": "wait"}]})
    )
    return folder


def run(*words):
    report.run(report.parse([*map(str, words)]), CONTEXT)


def test_page_and_files(files, tmp_path, capsys):
    page, figures = tmp_path / "report.html", tmp_path / "deep" / "figures"
    run(files / "shards", files / "trace.json", "--out", page, "--figures", figures)
    names = {"load", "layers", "mask-layer0", "mask-layer1", "mask-layer2", "timeline", "traffic"}
    assert {path.name for path in figures.iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("svg", "png")
    }
    assert capsys.readouterr().out == f"7 pictures in {page}, and as files in {figures}\n"
    text = page.read_text(encoding="utf-8")
    assert f"repurpose-hpc report {files / 'shards'} {files / 'trace.json'} --out {page}" in text


def test_the_page_has_the_command_lines_of_reports_and_traces(tmp_path):
    """As they were typed, quoted where a shell wants that."""
    write_shards(tmp_path / "shards", 2)
    write_samples(tmp_path / "my data.npz")
    words = [
        "infer",
        "--shards",
        "shards",
        "--repeat",
        "0",
        "--report",
        "r.json",
        "--trace",
        "t.json",
        "--input",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "repurpose_hpc", *words, "my data.npz"]
    subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True, timeout=120)
    line = f"repurpose-hpc {' '.join(words)} 'my data.npz'"
    written, trace = (json.loads((tmp_path / name).read_text()) for name in ("r.json", "t.json"))
    assert written["command"] == trace["otherData"]["command"] == line
    assert problems(written, REPORTS["infer"]) == []
    run(tmp_path / "r.json", tmp_path / "t.json", "--out", tmp_path / "page.html")
    page = html.unescape((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.count(f"<code>{line}</code>") == 2 and "t.json: trace of infer<" in page


@pytest.mark.parametrize(
    ("typed", "kind"),
    [
        ({"command": "repurpose-hpc generate model --ids 1"}, "trace of generate"),
        ({"command": 7}, "trace"),
        ([], "trace"),
    ],
)
def test_a_trace_says_whose_it_is(tmp_path, typed, kind):
    (tmp_path / "t.json").write_text(json.dumps({"traceEvents": [EVENT], "otherData": typed}))
    assert origin_of(open_source(tmp_path / "t.json")).kind == kind


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "r.html"], "the following arguments are required: DIR|REPORT.json"),
        (["shards"], "required: --out"),
        (["cut.json", "other.json", "--out", "other.json"], "--out: expected a place of its own.*other.json"),
        (["cut.json", "study", "--out", "study/study.csv"], "--out: expected a place of its own.*study.csv"),
        (["study/study.csv", "--out", "study/study.json"], "--out: expected a place of its own.*study.json"),
    ],
)
def test_wrong_command_lines_are_refused(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study").mkdir()
    for name in ("other.json", "study/study.csv", "study/study.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match=said):
        report.parse(words)


def test_a_report_without_pictures_makes_a_page_and_a_note(tmp_path):
    (tmp_path / "seen.json").write_text(json.dumps(report_of("inspect")))
    with pytest.warns(Note, match="seen.json: a report of inspect has no pictures"):
        run(tmp_path / "seen.json", "--out", tmp_path / "page.html")
    assert "report of inspect" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_nothing_is_written_where_something_is_wrong(files, tmp_path):
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match="bad.json: expected a readable report"):
        run(
            files / "cut.json",
            tmp_path / "bad.json",
            "--out",
            tmp_path / "r.html",
            "--figures",
            tmp_path / "f",
        )
    assert [path.name for path in tmp_path.iterdir()] == ["bad.json"]


def test_without_matplotlib_the_extra_is_named(files, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"matplotlib, .*pip install 'repurpose-hpc\[plot\]'"):
        run(files / "cut.json", "--out", tmp_path / "r.html")


def missing() -> str:
    """What the tests in a browser lack; "": nothing."""
    programs = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return ", ".join(programs + ([] if find_spec("selenium") else ["selenium"]))


in_browser = pytest.mark.skipif(bool(missing()), reason=f"no browser to look at the page with: {missing()}")


@pytest.fixture(scope="module")
def browser(files, tmp_path_factory) -> Iterator:
    """A page with pictures of all that ``files`` has, in a browser that notes its requests."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    page = tmp_path_factory.mktemp("page") / "report.html"
    run(*(files / name for name in ("shards", "cut.json", "infer.json", "trace.json")), "--out", page)
    options = ChromeOptions()
    for word in ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{word}")
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = Chrome(options, Service(shutil.which("chromedriver")))
    driver.get(page.as_uri())
    yield driver
    driver.quit()


@in_browser
@pytest.mark.parametrize("size", SIZES)
def test_nothing_overlaps_or_overflows(browser, size, tmp_path):
    width, height = SIZES[size]
    # A window of the browser is wider than a phone; its page need not be.
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(BEYOND) == []
    assert browser.execute_script(COVERED) == []
    assert browser.execute_script(SMALL_TEXT) == []
    assert browser.get_screenshot_as_png().startswith(b"\x89PNG")


@in_browser
def test_no_request_leaves_the_file(browser):
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"
    ]
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)
    assert len([url for url in asked if url.startswith("file:")]) == 1
    assert browser.get_log("browser") == []  # nothing was refused by its policy either


@in_browser
def test_the_keyboard_reaches_everything(browser):
    from selenium.webdriver import ActionChains, Keys

    count = browser.execute_script(FOCUSABLE)
    browser.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached = set()
    for _ in range(count):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.add(browser.switch_to.active_element.id)
        outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", browser.switch_to.active_element.get_attribute("outerHTML")[:80]
    assert len(reached) == count > 20
    summary = browser.find_element("css selector", "summary")
    browser.execute_script("arguments[0].focus()", summary)
    was_open = summary.find_element("xpath", "..").get_property("open")
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert summary.find_element("xpath", "..").get_property("open") != was_open


@in_browser
def test_on_paper_all_numbers_are_there(browser):
    hidden = "return [...document.querySelectorAll('td')].filter(e => !e.checkVisibility()).length"
    assert browser.execute_script(hidden) > 0
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.execute_script(hidden) == 0
    pdf = browser.execute_cdp_cmd("Page.printToPDF", {})["data"]
    assert len(pdf) > 10_000
