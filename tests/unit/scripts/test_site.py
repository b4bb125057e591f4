"""The site: built without a warning, every link in it leads somewhere, and the reference has all names."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import site_of_documents

import repurpose_hpc

for package in ("sphinx", "myst_parser", "furo"):
    pytest.importorskip(package)


class _Page(HTMLParser):
    """The identifiers of a page, and what it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.identifiers: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note what the beginning of an element has."""
        for name, value in attributes:
            if name == "id" and value:
                self.identifiers.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    assert site_of_documents.build(folder / "source", folder / "html") == 0
    return folder / "html"


def broken(pages: dict[Path, _Page]) -> Iterator[str]:
    """Links of pages to nothing."""
    for place, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (place.parent / unquote(parts.path)).resolve() if parts.path else place
            is_there = target.exists() and (target not in pages or not parts.fragment)
            if not is_there and not (target in pages and parts.fragment in pages[target].identifiers):
                yield f"{place}: {link}"


def test_every_link_leads_somewhere(built):
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in built.rglob("*.html")}
    assert {"index.html", "reference.html", "docs/tutorial.html"} <= {
        path.relative_to(built).as_posix() for path in pages
    }
    assert [*broken(pages)] == []
    # The check finds what is broken.
    place = built / "index.html"
    assert [*broken({place: _Page('<a href="nowhere.html">x</a><a href="#nothing">x</a>')})] == [
        f"{place}: nowhere.html",
        f"{place}: #nothing",
    ]


def test_the_reference_has_all_names(built):
    reference = _Page((built / "reference.html").read_text(encoding="utf-8"))
    names = {name for name in dir(repurpose_hpc) if not name.startswith("_")}
    assert {f"repurpose_hpc.{name}" for name in names} <= reference.identifiers
