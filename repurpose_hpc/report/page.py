"""One HTML file of pictures, their numbers and their origin, which asks for nothing outside itself.

All text passes through ``html.escape``, as names of layers and files may hold anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib.resources import files
from types import NoneType
from typing import Any, NamedTuple

from repurpose_hpc import __version__
from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import count
from repurpose_hpc.report.pictures import KINDS, Chapter, Picture
from repurpose_hpc.report.pictures.picture import Numbers
from repurpose_hpc.report.pictures.render import inline_svg
from repurpose_hpc.report.provenance import Origin, origin_of
from repurpose_hpc.report.schema import REPORTS
from repurpose_hpc.report.sources import Source
from repurpose_hpc.report.words import cell

MOST_BYTES = 5_000_000
# Rows of a table that is open from the beginning.
_FEW_ROWS = 8
_OTHER = re.compile(r"[^a-z0-9]+")
_ORIGIN = "origin"


class Shown(NamedTuple):
    """A picture in its place.

    Attributes:
        anchor: unique in the page, a name that files may have.
        chapter: where it stands.
        picture: the picture.
        source: name of what it shows.
    """

    anchor: str
    chapter: Chapter
    picture: Picture
    source: str


def pictures_of_sources(sources: Sequence[Source]) -> list[Shown]:
    """All pictures that can be made, chapter by chapter."""
    found, taken = [], {_ORIGIN}
    for chapter in Chapter:
        for kind in (kind for kind in KINDS if kind.chapter is chapter):
            for source in (source for source in sources if source.kind in kind.sources):
                for picture in kind.make(source.content):
                    anchor = _free_name(picture.name, taken)
                    taken.add(anchor)
                    found.append(Shown(anchor, chapter, picture, source.name))
    return found


def notes_on_none(shown: Sequence[Shown], sources: Sequence[Source]) -> Iterator[str]:
    """What there is to say of each source that has no picture."""
    with_pictures = {kind for each in KINDS for kind in each.sources}
    drawn = {each.source for each in shown}
    for source in sources:
        if source.name in drawn:
            continue
        origin = origin_of(source)
        if source.kind in with_pictures:
            yield f"{source.name}: nothing to draw in this {origin.kind}; its numbers are on the page"
        else:
            others = ", ".join(sorted(with_pictures & REPORTS.keys()))
            yield (
                f"{source.name}: a {origin.kind} has no pictures, its numbers are on the page; reports of "
                f"{others} have pictures"
            )


def _free_name(name: str, taken: set[str]) -> str:
    """A name of small letters, digits and dashes that is not taken."""
    base = _OTHER.sub("-", name.lower()).strip("-")[:60] or "picture"
    number, free = 1, base
    while free in taken:
        number += 1
        free = f"{base}-{number}"
    return free


def page(shown: Sequence[Shown], sources: Sequence[Source], command: str) -> str:
    """The whole page.

    Args:
        shown: of ``pictures_of_sources``.
        sources: that they are of.
        command: that makes the page.

    Raises:
        UserError: it would be larger than ``MOST_BYTES``.
    """
    chapters = {chapter: [each for each in shown if each.chapter is chapter] for chapter in Chapter}
    template = files("repurpose_hpc.report").joinpath("page.html").read_text(encoding="utf-8")
    parts = {
        "title": escape(_title(sources)),
        "contents": "\n".join(_contents(chapters)),
        "chapters": "\n".join(_chapter(chapter, of_it) for chapter, of_it in chapters.items() if of_it),
        "origin": "\n".join(map(_origin, map(origin_of, sources))),
        "command": escape(command),
        "version": escape(__version__),
    }
    # In one pass, so that nothing that a file says is taken for a mark of the template.
    text = re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], template)
    if (size := len(text.encode())) > MOST_BYTES:
        raise UserError(
            f"sources: expected a page of at most {MOST_BYTES / 1e6:g} MB, got {size / 1e6:.1f} MB; "
            "make one of fewer of them"
        )
    return text


def _title(sources: Sequence[Source]) -> str:
    return "Report on " + ", ".join(source.name for source in sources)


def _contents(chapters: dict[Chapter, list[Shown]]) -> Iterator[str]:
    for chapter, shown in chapters.items():
        if shown:
            links = (f'<li><a href="#{each.anchor}">{escape(each.picture.title)}</a></li>' for each in shown)
            yield f"<li>{escape(chapter.value)}<ul>{''.join(links)}</ul></li>"
    yield f'<li><a href="#{_ORIGIN}">Where this comes from</a></li>'


def _chapter(chapter: Chapter, shown: Iterable[Shown]) -> str:
    name = f"chapter-{chapter.name.lower()}"
    figures = "\n".join(map(_figure, shown))
    return (
        f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(chapter.value)}</h2>\n'
        f'<div class="figures">\n{figures}\n</div></section>'
    )


def _figure(shown: Shown) -> str:
    """A picture, its title above, how to read it and its numbers below."""
    anchor, picture = shown.anchor, shown.picture
    kind = "drawing wide" if picture.is_wide else "drawing"
    scrolls = ' tabindex="0"' if picture.is_wide else ""
    note = escape(f"{picture.note} Of {shown.source}.".strip())
    return (
        f'<figure id="{anchor}" role="figure" aria-labelledby="{anchor}-title">\n'
        f'<h3 id="{anchor}-title">{escape(picture.title)}</h3>\n'
        f'<div class="{kind}" role="img" aria-label="{escape(picture.title)}"{scrolls}>'
        f"{inline_svg(picture, anchor)}</div>\n"
        f"<figcaption>{note}</figcaption>\n{_table(picture.numbers)}\n</figure>"
    )


def _table(numbers: Numbers) -> str:
    columns = zip(numbers.columns, zip(*numbers.rows, strict=True), strict=True)
    head = "".join(
        f'<th scope="col"{_kind(all(map(_is_text, values)))}>{escape(name)}</th>' for name, values in columns
    )
    body = "\n".join(map(_row, numbers.rows))
    return _folded(
        f"Numbers, {count(len(numbers.rows), 'row')}",
        numbers.caption,
        f"<table><caption>{escape(numbers.caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table>",
        len(numbers.rows) <= _FEW_ROWS,
    )


def _row(values: tuple[Any, ...]) -> str:
    first, *others = values
    cells = "".join(f"<td{_kind(_is_text(value))}>{escape(cell(value))}</td>" for value in others)
    return f'<tr><th scope="row">{escape(cell(first))}</th>{cells}</tr>'


def _is_text(value: Any) -> bool:
    return not isinstance(value, (int, float, NoneType))


def _kind(is_text: bool) -> str:
    """The attribute of a cell that stands to the left."""
    return ' class="text"' if is_text else ""


def _folded(title: str, label: str, content: str, is_open: bool) -> str:
    """Content that can be folded away, and scrolls in its own box where it is too wide."""
    return (
        f"<details{' open' if is_open else ''}><summary>{escape(title)}</summary>\n"
        f'<div class="scrolls" role="group" aria-label="{escape(label)}" tabindex="0">{content}</div>'
        "</details>"
    )


def _origin(origin: Origin) -> str:
    command = f'<pre tabindex="0"><code>{escape(origin.command)}</code></pre>' if origin.command else ""
    facts = Numbers(f"What {origin.name} says", ("name", *origin.columns), list(origin.facts))
    table = _table(facts) if origin.facts else ""
    return f"<h3>{escape(origin.name)}: {escape(origin.kind)}</h3>\n{command}\n{table}"
