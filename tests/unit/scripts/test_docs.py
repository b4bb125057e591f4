"""The documents: links lead somewhere, files that they name exist, lines are short."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[3]
WIDTH = 100
# Where a document may begin a path that it names, beside its own folder.
STARTS = ("", "repurpose_hpc", "kernels")
LINK = re.compile(r"\]\(([^)\s]+)\)")
# Files with these suffixes are those of the repository; .csv and .json may be those of a user.
SUFFIXES = r"py|md|sh|sbatch|npz|toml"
PATH = re.compile(rf"`((?:[\w.-]+/)*[\w.-]+\.(?:{SUFFIXES})|(?:[\w.-]+/)+)`")
FENCED = re.compile(r"^```.*?^```", re.M | re.S)
# The table of networks names files of other packages.
IN_WHEELS = re.compile(r"<!-- networks -->.*?<!-- end -->", re.S)


def _tracked() -> set[str]:
    """Files of the repository; in a copy without git, all that are there."""
    done = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True)
    if done.returncode == 0:
        return set(done.stdout.decode().splitlines())
    return {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file()}


FILES = _tracked()
FOLDERS = {str(folder) for name in FILES for folder in PurePosixPath(name).parents}
# The changelog has long lines, and names what is gone.
DOCUMENTS = sorted(
    name
    for name in FILES
    if name.endswith(".md") and not name.startswith(".") and name != "CHANGELOG.md" and (ROOT / name).exists()
)
each_document = pytest.mark.parametrize("name", DOCUMENTS)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def resolved(path: PurePosixPath) -> str:
    """A path without ``..``, from the root of the repository."""
    return (ROOT / path).resolve().relative_to(ROOT).as_posix()


def is_there(path: PurePosixPath) -> bool:
    return resolved(path) in FILES | FOLDERS


def anchors(name: str) -> set[str]:
    """Anchors of the headings of a document, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text_of(name)), re.M)
    texts = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}


def links(name: str) -> Iterator[tuple[PurePosixPath, str]]:
    """The links of a document to others: the file, from the root, and the anchor in it."""
    for link in LINK.findall(text_of(name)):
        if ":" not in link:
            path, _, anchor = link.partition("#")
            yield PurePosixPath(name).parent / path if path else PurePosixPath(name), anchor


@each_document
def test_links_lead_somewhere(name):
    assert [
        f"{path}#{anchor}"
        for path, anchor in links(name)
        if not is_there(path) or (anchor and anchor not in anchors(resolved(path)))
    ] == []


@each_document
def test_files_that_are_named_exist(name):
    starts = [PurePosixPath(start) for start in (*STARTS, PurePosixPath(name).parent)]
    text = IN_WHEELS.sub("", FENCED.sub("", text_of(name)))
    named = {path for path in PATH.findall(text) if "NAME" not in path}
    assert [path for path in named if not any(is_there(start / path) for start in starts)] == []


@each_document
def test_lines_are_short(name):
    """But for tables, which cannot be broken."""
    lines = text_of(name).splitlines()
    assert [line for line in lines if len(line) > WIDTH and not line.startswith("|")] == []
