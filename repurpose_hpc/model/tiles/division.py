"""Where maps are cut: the rectangles of a grid of workers, for maps of every size.

Maps of one size are cut alike.  Each size is cut evenly, or where the even cut of a smaller size falls when
it is scaled up, so that the windows of strides and pools cross fewer cuts; unless that makes a part over a
quarter larger than the largest of an even cut.  A map with fewer positions along an axis than there are parts
leaves the others without any.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np

from repurpose_hpc.model.blocks import block_ends
from repurpose_hpc.model.tiles.rectangles import Rectangle, area

# The largest part of a cut, relative to that of an even one.
UNEVEN = 1.25
# The ends of the parts of a size, from 0 to the size.
Cut = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Division:
    """A grid of workers, and the cuts of all sizes along the first axes of maps.

    Attributes:
        workers: P, row after row of the grid.
        cuts: one or two axes: size of a map along the axis -> its cut; a further axis is not cut.
    """

    workers: int
    cuts: tuple[Mapping[int, Cut], ...]

    def record(self) -> dict[str, Any]:
        """It as JSON values."""
        return {"workers": self.workers, "cuts": [[*map(list, cut.items())] for cut in self.cuts]}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Division:
        """What ``record`` made."""
        cuts = tuple({size: tuple(ends) for size, ends in cut} for cut in record["cuts"])
        return cls(record["workers"], cuts)

    def cuts_maps(self, positions: tuple[int, ...]) -> bool:
        """Whether it says where maps of this shape are cut."""
        sizes = zip(positions, self.cuts, strict=False)
        return len(positions) >= len(self.cuts) and all(size in cut for size, cut in sizes)

    def rectangles(self, positions: tuple[int, ...]) -> list[Rectangle | None]:
        """The rectangle of each worker of a map of this shape, (P,); None: it has none."""
        axes = []
        for axis, size in enumerate(positions):
            cut = self.cuts[axis][size] if axis < len(self.cuts) else (0, size)
            axes.append([*pairwise(cut)])
        found = [rectangle if area(rectangle) else None for rectangle in product(*axes)]
        return found + [None] * (self.workers - len(found))


def divisions(shapes: Iterable[tuple[int, ...]], shares: np.ndarray) -> Iterator[Division]:
    """Ways to cut maps, of which one sends least.

    Args:
        shapes: of all maps that are cut.
        shares: relative sizes of the workers' parts, (P,), not all 0; where they differ, maps are cut into
            strips along the first axis alone.
    """
    shapes, workers = list(shapes), len(shares)
    axes = min(len(shape) for shape in shapes)
    largest = max(shapes, key=math.prod)
    is_even = bool((shares == shares[0]).all())
    grids = _grids(largest[:2], workers) if axes > 1 and is_even else [(workers,)]
    for grid in grids:
        parts = [np.full(count, 1.0) for count in grid] if is_even else [shares]
        sizes = [{shape[axis] for shape in shapes} for axis in range(len(grid))]
        for cuts in product(*(_candidates(*each) for each in zip(sizes, parts, strict=True))):
            yield Division(workers, cuts)


def _grids(shape: Sequence[int], workers: int) -> list[tuple[int, int]]:
    """The grids of all workers that share the positions of a map about as evenly as possible.

    Those of more rows come first: halos across rows lie together in memory, and rows stay long.
    """
    grids = [(rows, workers // rows) for rows in range(workers, 0, -1) if workers % rows == 0]
    most = {
        grid: math.prod(-(-size // parts) for size, parts in zip(shape, grid, strict=True)) for grid in grids
    }
    return [grid for grid in grids if most[grid] <= UNEVEN * min(most.values())]


def _candidates(sizes: set[int], shares: np.ndarray) -> list[dict[int, Cut]]:
    """The cuts of all sizes, once for each size whose even cut the larger ones follow as far as they may."""
    even = {size: _even(size, shares) for size in sorted(sizes)}
    found = [{size: _followed(even[base], even[size]) for size in even} for base in even]
    return [cuts for number, cuts in enumerate(found) if cuts not in found[:number]]


def _even(size: int, shares: np.ndarray) -> Cut:
    """The cut by shares."""
    return (0, *block_ends(size, shares).tolist())


def _followed(smaller: Cut, even: Cut) -> Cut:
    """``smaller`` scaled to the size of ``even``; ``even`` itself where that is less, or else uneven."""
    base, size = smaller[-1], even[-1]
    scaled = tuple(round(end * size / base) for end in smaller)
    return scaled if size > base and _largest(scaled) <= UNEVEN * _largest(even) else even


def _largest(cut: Cut) -> int:
    return max(end - first for first, end in pairwise(cut))
