"""Other positions: padding, nearest resize, slices of a map."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from repurpose_hpc.model.operations.operation import Cost, OneSource, Shape, index_faults, operation
from repurpose_hpc.model.operations.patches import add_up, as_map, from_map


@operation
@dataclass(frozen=True, eq=False)
class Rearrange(OneSource):
    """Other positions, neuron by neuron: padding, nearest resize, slices of a map.

    Attributes:
        index: (positions out,) int64, flat source position, or -1 for ``fill``.
        fill: a number.
    """

    name: str
    source: str
    target: str
    index: np.ndarray
    fill: float = 0.0

    def compute(self, *sources: np.ndarray) -> np.ndarray:
        """See ``Operation``."""
        x = as_map(sources[0])
        padded = np.concatenate([x, np.full((*x.shape[:2], 1), self.fill, x.dtype)], axis=2)
        return from_map(padded.take(self.index, axis=2))

    def vjp(self, g: np.ndarray, target: np.ndarray, *sources: np.ndarray) -> list[np.ndarray]:
        """See ``Operation``."""
        (x,) = sources
        targets = np.flatnonzero(self.index >= 0)
        moved = add_up(as_map(g).take(targets, axis=2), self.index[targets], as_map(x).shape[2], axis=2)
        return [moved.reshape(x.shape)]

    def is_binary(self, *sources: bool) -> bool:
        """Values that are moved, and what stands between them."""
        return all(sources) and self.fill in (0, 1)

    def gain(self, sources: Sequence[Shape], target: Shape) -> list[float]:
        """√ of the largest number of times that a position is taken."""
        return [math.sqrt(np.bincount(self.index[self.index >= 0], minlength=1).max())]

    def cost(self, target: Shape) -> Cost:
        """One pass over all values."""
        return Cost(target.values, False)

    def faults(self, sources: Sequence[Shape], target: Shape) -> Iterator[str]:
        """See ``Operation``."""
        (source,) = sources
        yield from index_faults(self.index, target.values, -1, source.values)
