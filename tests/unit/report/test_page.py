"""The page: well-formed, complete, the same for the same input, and deaf to what names say."""

import json
import math
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from helpers import reports
from helpers.html_pages import Page
from helpers.reports import least, report_of
from helpers.small_plans import pruned, random_network, random_plan, write_shards
from repurpose_hpc.errors import UserError
from repurpose_hpc.plan.files.store import write_plan
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.report import page as module
from repurpose_hpc.report.page import notes_on_none, page, pictures_of_sources
from repurpose_hpc.report.pictures.render import drawn, write_files
from repurpose_hpc.report.schema import REPORTS, problems
from repurpose_hpc.report.sources import open_source

STUDY = """workers,method,assignment,input_placement,budget,seed,forms,values_sent,dense_values,\
comm_fraction,test_reference_accuracy,test_accuracy,test_output_error,error
4,data,munkres,replicated,0.1,0,ghosts,40,400,0.1,0.9,0.89,0.02,
4,magnitude,contiguous,replicated,0.1,0,ghosts,38,400,0.095,0.9,0.7,0.4,
4,magnitude,contiguous,replicated,0.01,0,ghosts,,,,,,,it failed
"""
POINT = {"form": "dense", "batch": 1, "compute_seconds": 1e-4, "pack_seconds": 1e-5, "exchange_seconds": 1e-5}
POINT |= {"wait_seconds": 1e-4, "best_single_seconds": 2e-4, "values": 9, "bytes": 36, "error": None}
POINT |= {"oversubscribed": False}
SCALING = {
    "study": {"kind": "strong", "width": 8, "layers": 2, "options": {"workers": 1, "comm_budget": 0.05}},
    "points": [
        POINT | {"ranks": 1, "seconds_median": 2e-4, "speedup": 1.0, "efficiency": 1.0},
        POINT | {"ranks": 2, "seconds_median": 1e-4, "speedup": 2.0, "efficiency": 1.0},
    ],
}
TRACE = {
    "traceEvents": [
        {"ph": "M", "pid": 0, "name": "process_name"},
        {"ph": "X", "pid": 0, "tid": 0, "name": "one", "cat": "compute", "ts": 5.0, "dur": 10.0},
        {"ph": "X", "pid": 1, "tid": 0, "name": "one", "cat": "wait", "ts": 5.0, "dur": 20.0},
        {"ph": "X", "pid": 1, "tid": 0, "name": "two", "cat": "wait", "ts": 25, "dur": 4},
    ]
}
HOSTILE = "<b onclick='x'>&\"$\\frac{1}\x01 " + "long" * 30


def write(path, content):
    if isinstance(content, bytes):
        path.write_bytes(content)
        return path
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def made(*paths):
    """Pictures and page of files."""
    sources = [open_source(path) for path in paths]
    shown = pictures_of_sources(sources)
    return shown, page(shown, sources, "repurpose-hpc report")


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """Pictures and page of a file of each kind, and of shards."""
    folder = tmp_path_factory.mktemp("sources")
    write_shards(folder / "shards", 3, "partitioned")
    (folder / "study").mkdir()
    write(folder / "study" / "study.csv", STUDY)
    reports = [write(folder / f"{name}.json", report_of(name)) for name in REPORTS]
    tables = [write(folder / "scaling.json", SCALING), write(folder / "trace.json", TRACE)]
    return made(folder / "shards", folder / "study", *reports, *tables)


def test_every_picture_has_a_title_and_its_numbers_below(everything):
    shown, text = everything
    found = Page(text)
    assert {each.chapter for each in shown} == set(module.Chapter)
    assert found.asked == [] and found.scripts == [] and max(found.ids.values()) == 1
    assert set(found.links) <= set(found.ids)
    figures = found.tags["figure"]
    assert figures == found.tags["svg"] == len(shown) == found.tags["figcaption"]
    # Heading, picture, table, one behind the other in each figure.
    first = found.outline.index("figure")
    within = [tag for tag in found.outline[first:] if tag != "h2"][: 4 * figures]
    assert within == ["figure", "h3", "svg", "table"] * figures
    for each in shown:
        assert each.picture.numbers.rows and f"#{each.anchor}" in text
        assert {len(row) for row in each.picture.numbers.rows} == {len(each.picture.numbers.columns)}
        assert any(letter.isdigit() for letter in each.picture.title)


def test_a_screen_reader_is_told_what_is_there(everything):
    found = Page(everything[1])
    by_tag = {tag: [given for name, given in found.attributes if name == tag] for tag in found.tags}
    assert by_tag["html"] == [{"lang": "en"}] and found.tags["main"] == found.tags["h1"] == 1
    assert found.tags["caption"] == found.tags["table"] == found.tags["thead"]
    assert all(given.get("scope") in ("col", "row") for given in by_tag["th"])
    assert all(given["aria-labelledby"] in found.ids for given in by_tag["figure"])
    images = [given for given in by_tag["div"] if given.get("role") == "img"]
    assert len(images) == found.tags["svg"] and all(given["aria-label"] for given in images)
    # What scrolls can be reached by the keyboard.
    boxes = [given for given in by_tag["div"] if given.get("class") in ("scrolls", "drawing wide")]
    assert boxes and all(given["tabindex"] == "0" for given in boxes)


def test_a_screen_reader_is_told_what_a_file_shows(everything, tmp_path):
    svg = "{http://www.w3.org/2000/svg}"
    for each in everything[0]:
        write_files(each.picture, tmp_path, each.anchor)
        root = ElementTree.parse(tmp_path / f"{each.anchor}.svg").getroot()
        title, description = list(root)[:2]
        assert (title.tag, description.tag) == (f"{svg}title", f"{svg}desc")
        assert title.text == each.picture.title and description.text.startswith(each.picture.note)
        assert root.get("role") == "img" and description.text.endswith(f"{each.picture.numbers.caption}.")
        assert root.get("aria-labelledby") == title.get("id")
        assert root.get("aria-describedby") == description.get("id")


def test_nothing_leaves_its_picture(everything):
    for each in everything[0]:
        with drawn(each.picture) as figure:
            FigureCanvasAgg(figure).draw()
            needed, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        margins = (needed.x0, needed.y0, width - needed.x1, height - needed.y1)
        assert min(margins) > -0.01, (each.anchor, margins)


@pytest.mark.parametrize("command", REPORTS)
def test_reports_that_say_little_are_shown(command, tmp_path):
    report = least(REPORTS[command])
    assert problems(report, REPORTS[command]) == []
    made(write(tmp_path / "report.json", report))


@pytest.mark.parametrize("number", [math.inf, math.nan, 0.0])
def test_numbers_of_any_size_are_shown(number, tmp_path, monkeypatch):
    monkeypatch.setitem(reports._PLAIN, float, number)
    made(*(write(tmp_path / f"{name}.json", report_of(name)) for name in REPORTS))


def test_a_page_of_everything_is_small(everything):
    assert len(everything[1].encode()) < module.MOST_BYTES / 5


def test_the_same_input_makes_the_same_bytes(tmp_path, monkeypatch):
    path = write(tmp_path / "trace.json", TRACE)
    before, text = made(path)
    write_files(before[0].picture, tmp_path, "first")
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30.0)
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "path")
    after, again = made(path)
    write_files(after[0].picture, tmp_path, "second")
    assert text == again
    for kind in ("svg", "png"):
        first, second = ((tmp_path / f"{name}.{kind}").read_bytes() for name in ("first", "second"))
        assert first == second and first


def hostile_shards(path):
    network = random_network()
    names = {mixing.name: f"{HOSTILE}{number}" for number, mixing in enumerate(network.mixings)}
    plan = random_plan(network, 2, "partitioned")
    renamed = {mixing.name: replace(mixing, name=names[mixing.name]) for mixing in network.mixings}
    mixings = {names[name]: mixing for name, mixing in plan.mixings.items()}
    plan = Plan(2, "partitioned", plan.owners, mixings)
    write_plan(path, pruned(network.with_mixings(renamed), plan), plan, {"note": HOSTILE})
    return path


def test_names_in_files_are_text(tmp_path):
    layer = report_of("restructure")["layers"][0]
    script = "</title></script><script>alert(1)</script><img src=http://out>\ud800{{command}}"
    report = report_of("restructure", layers=[layer | {"name": script}, layer | {"name": HOSTILE}])
    events = [event | {"name": script} for event in TRACE["traceEvents"]]
    shown, text = made(
        hostile_shards(tmp_path / "shards"),
        write(tmp_path / "cut.json", report | {"shards": script}),
        write(tmp_path / "trace.json", {"traceEvents": events}),
    )
    found = Page(text)
    assert found.asked == [] and found.scripts == [] and max(found.ids.values()) == 1
    assert not found.tags["script"] and not found.tags["b"] and not found.tags["img"]
    assert "<script>alert(1)</script>" in found.words and "$\\frac{1}" in found.words
    assert "\N{REPLACEMENT CHARACTER}{{command}}" in found.words and "\x01" not in text
    write_files(shown[0].picture, tmp_path, shown[0].anchor)
    assert all(set(each.anchor) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for each in shown)


def test_a_page_does_not_grow_beyond_all_bounds(tmp_path, monkeypatch):
    path = write(tmp_path / "tuned.json", report_of("finetune"))
    monkeypatch.setattr(module, "MOST_BYTES", 20_000)
    with pytest.raises(UserError, match="expected a page of at most 0.02 MB, got .* make one of fewer"):
        made(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", {"ranks": 1}, "a.json: expected a report of this version's commands"),
        ("a.json", report_of("infer", ranks="two"), r"nearest is that of infer.*ranks: expected integer"),
        ("a.json", report_of("infer", ranks=10**400), "expected a readable report: it has a number of"),
        ("a.json", "[1]", "holds no object"),
        ("a.json", {}, "a.json: expected a report of a command, found none of its keys; name shards"),
        ("a.npz", b"PK\x03\x04\xff", "a.npz: expected a readable report: it is no text, so no JSON; name"),
        ("a.txt", "hello", "a.txt: expected a readable report: it is no JSON: Expecting value"),
        ("a.json", {"traceEvents": []}, "has no calls"),
        ("a.json", {"traceEvents": [{"ph": "X", "pid": 0, "ts": 0, "dur": 1e999}]}, "readable report"),
        ("a.json", {"traceEvents": [TRACE["traceEvents"][1] | {"pid": "x"}]}, "the pid 'x'"),
        ("a.json", {"study": {}, "points": []}, "no row that has not failed"),
        ("a.json", {"study": {}, "points": [SCALING["points"][0] | {"ranks": "x"}]}, "column ranks, found"),
        ("a.csv", STUDY.replace("0.89", "inf"), "in column test_accuracy, found inf"),
        ("a.csv", "one,two\n1,2\n", "no table of study or scaling"),
        ("a.csv", STUDY.replace("0.89", "good"), "could not convert"),
        ("a.h5", "\x00", "expected a readable report"),
    ],
)
def test_what_cannot_be_shown_is_refused(tmp_path, name, content, said):
    with pytest.raises(UserError, match=said) as refused:
        open_source(write(tmp_path / name, content))
    assert str(refused.value).count("; ") >= 1


def test_a_directory_without_anything_is_refused(tmp_path):
    with pytest.raises(
        UserError, match="expected plan.h5 of shards, or study.csv or scaling.json, found none"
    ):
        open_source(tmp_path)


def test_numbers_behind_pictures(tmp_path):
    (study,), _ = made(write(tmp_path / "study.csv", STUDY))
    assert study.picture.title == (
        "4 workers: with 10 % of the communication data, munkres has an accuracy of 0.8900 (original "
        "0.9000); the other has 0.7000 at its least"
    )
    assert study.picture.numbers.rows == [
        ("data, munkres", 0.1, 40, 0.1, 0.89),
        ("magnitude, contiguous", 0.1, 38, 0.095, 0.7),
    ]
    (timeline,), _ = made(write(tmp_path / "trace.json", TRACE))
    assert timeline.picture.title.startswith("Rank 1 waits longest: 24 µs of 24 µs; computing takes 20.8 %")
    assert timeline.picture.numbers.rows == [
        (0, "one", 10.0, 0.0, 0.0, 0.0),
        (1, "one", 0.0, 0.0, 0.0, 20.0),
        (1, "two", 0.0, 0.0, 0.0, 4.0),
    ]
    (speedup, phases), _ = made(write(tmp_path / "scaling.json", SCALING))
    assert "fastest with 2 ranks, dense: 100 µs, 2.00 times as fast as one process" in speedup.picture.title
    np.testing.assert_allclose(phases.picture.numbers.rows[0][2:], [0.1, 0.01, 0.01, 0.1])


def test_errors_are_in_percent_in_title_table_and_diagram(tmp_path):
    """A marker at 0 has its room beside the names of layers."""
    layer = report_of("restructure")["layers"][0]
    layers = [
        layer | {"name": "first", "relative_error": 0.0, "relative_error_held_out": 0.0},
        layer | {"name": "second", "relative_error": 0.031, "relative_error_held_out": 0.043},
    ]
    report = report_of("restructure", layers=layers, output_error=0.02, output_error_held_out=0.025)
    shown, _ = made(write(tmp_path / "cut.json", report))
    picture = next(each.picture for each in shown if each.anchor == "errors")
    assert picture.title.startswith("second has the largest error, 3.1 %; the outputs are off by 2 % on")
    assert picture.numbers.caption == "Relative errors, %"
    np.testing.assert_allclose([row[1] for row in picture.numbers.rows], [0, 3.1, 2])
    np.testing.assert_allclose([row[2] for row in picture.numbers.rows], [0, 4.3, 2.5])
    with drawn(picture) as figure:
        (axes,) = figure.axes
        assert axes.get_xlabel() == "relative error, %"
        (markers,) = axes.lines
        np.testing.assert_allclose(markers.get_xdata(), [0, 4.3, 2.5])
        FigureCanvasAgg(figure).draw()
        beside = axes.transData.transform((0, 0))[0] - axes.bbox.x0
        assert beside > 0.5 * markers.get_markersize() * figure.dpi / 72


def test_a_study_without_a_baseline_says_so(tmp_path):
    rows = "".join(row for row in STUDY.splitlines(keepends=True) if ",magnitude," not in row)
    (study,), _ = made(write(tmp_path / "study.csv", rows))
    assert "The study has no baseline to compare with" in study.picture.note
    (study,), _ = made(write(tmp_path / "study.csv", STUDY))
    assert "baseline" not in study.picture.note


def test_sources_without_a_picture_are_named(tmp_path):
    files = [write(tmp_path / f"{name}.json", report_of(name)) for name in ("inspect", "infer")]
    sources = [open_source(path) for path in files]
    (note,) = notes_on_none(pictures_of_sources(sources), sources)
    assert note.startswith(f"{files[0]}: a report of inspect has no pictures, ")
    assert " restructure have pictures" in note and " infer, " in note and "shards" not in note
    tuned = write(tmp_path / "tuned.json", least(REPORTS["finetune"]))
    sources = [open_source(tuned)]
    (note,) = notes_on_none(pictures_of_sources(sources), sources)
    assert note == f"{tuned}: nothing to draw in this report of finetune; its numbers are on the page"


def test_what_shards_receive(tmp_path):
    network, plan = write_shards(tmp_path / "shards", 3, "partitioned")
    shown, _ = made(tmp_path / "shards")
    traffic = next(each.picture for each in shown if each.anchor == "traffic")
    values = sum(plan.traffic(network, mixing) for mixing in network.mixings)
    assert [row[1:4] for row in traffic.numbers.rows[:3]] == [tuple(row) for row in values.tolist()]
    worker, received = values.sum(axis=0).argmax(), values.sum(axis=0)
    assert traffic.title == (
        f"Worker {worker} receives most: {4 * received.max()} B per sample, "
        f"{received.max() / received.mean():.2g} times the mean"
    )
