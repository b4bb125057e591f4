"""Some neurons of other tensors, in any order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.model.operations.operation import (
    Cost,
    Operation,
    Rows,
    Shape,
    index_faults,
    operation,
    same_positions,
)
from repurpose_hpc.model.operations.patches import add_up


@operation
@dataclass(frozen=True, eq=False)
class Select(Operation):
    """Some neurons of other tensors, in any order: Concat, Split, Slice, channel shuffles.

    Attributes:
        sources: tensors with the same positions.
        index: (neurons,) int64: the place of each among those of ``sources``, one after the other.
    """

    name: str
    sources: tuple[str, ...]
    target: str
    index: np.ndarray

    def compute(self, *sources: np.ndarray) -> np.ndarray:
        """See ``Operation``."""
        return np.concatenate(sources)[self.index]

    def vjp(self, g: np.ndarray, target: np.ndarray, *sources: np.ndarray) -> list[np.ndarray]:
        """See ``Operation``."""
        ends = np.cumsum([len(source) for source in sources])
        return np.split(add_up(g, self.index, ends[-1], axis=0), ends[:-1])

    def restricted(self, target: Rows, *sources: Rows) -> Select:
        """See ``Operation``: a worker reads its own copies.

        Raises:
            ValueError: a worker does not have what it needs.
        """
        ends = np.cumsum([0, *(rows.size for rows in sources)])
        workers = np.concatenate([rows.workers for rows in sources])
        places = np.concatenate([end + rows.neurons for end, rows in zip(ends[:-1], sources, strict=True)])
        # A place and a worker as one number.
        given, needed = workers * ends[-1] + places, target.workers * ends[-1] + self.index[target.neurons]
        if not np.isin(needed, given).all():
            raise ValueError(f"{self.name}: expected workers to have all neurons that they select")
        order = np.argsort(given, kind="stable")
        return replace(self, index=order[np.searchsorted(given, needed, sorter=order)])

    def is_binary(self, *sources: bool) -> bool:
        """Values that are chosen."""
        return all(sources)

    def gain(self, sources: Sequence[Shape], target: Shape) -> list[float]:
        """√ of the largest number of times that a neuron is taken."""
        return [math.sqrt(np.bincount(self.index[self.index >= 0], minlength=1).max())] * len(sources)

    def cost(self, target: Shape) -> Cost:
        """One pass over all values."""
        return Cost(target.values, False)

    def neurons(self, *sources: np.ndarray) -> np.ndarray:
        """See ``Operation``."""
        return np.concatenate(sources)[self.index]

    def faults(self, sources: Sequence[Shape], target: Shape) -> Iterator[str]:
        """See ``Operation``."""
        for source in sources:
            yield from same_positions(source, target)
        yield from index_faults(self.index, target.neurons, 0, sum(source.neurons for source in sources))
