"""Pictures: what one is, and the table of all kinds, filled by the decorator ``pictures_of``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from matplotlib.figure import Figure


class Chapter(Enum):
    """Parts of a page, in order."""

    MASKS = "Which neurons depend on each other"
    TRAFFIC = "What crosses between workers"
    LOAD = "What each worker has to do"
    QUALITY = "How good the answers are"
    TIME = "Where the time goes"
    SCALING = "How many ranks pay"
    TUNING = "What fine-tuning brings"
    BENCH = "How fast it is beside others"


class Numbers(NamedTuple):
    """The numbers of a picture, as a table.

    Attributes:
        caption: what they are, with units.
        columns: headings, that of the first column first.
        rows: a row begins with what it is of.
    """

    caption: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that can be drawn.

    Attributes:
        name: of its kind and subject; names of files and anchors follow from it.
        title: what it shows, in a sentence with numbers.
        note: how to read it.
        numbers: that it shows.
        draw: draws it on an empty figure, without the title.
        height: inches; the width is always ``style.WIDTH``, or ``style.WIDE``.
        is_wide: whether it needs more room than a phone has.
    """

    name: str
    title: str
    note: str
    numbers: Numbers
    draw: Callable[[Figure], None]
    height: float = 3.0
    is_wide: bool = False


class PictureKind(NamedTuple):
    """Pictures of one kind.

    Attributes:
        chapter: where they stand.
        sources: kinds of the sources that they can be made of.
        make: makes them of the content of a source.
    """

    chapter: Chapter
    sources: frozenset[str]
    make: Callable[[Any], Iterable[Picture]]


KINDS: list[PictureKind] = []
"""All kinds, in the order in which they were declared."""

Maker = Callable[[Any], Iterator[Picture]]


def pictures_of(chapter: Chapter, *sources: str) -> Callable[[Maker], Maker]:
    """Declare a function that makes pictures of the content of a source.

    Args:
        chapter, sources: see ``PictureKind``.
    """

    def declare(make: Maker) -> Maker:
        KINDS.append(PictureKind(chapter, frozenset(sources), make))
        return make

    return declare
