"""A map put together of parts of other maps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from repurpose_hpc.model.operations.operation import Cost, Operation, Shape, index_faults, operation
from repurpose_hpc.model.operations.patches import add_up, as_map, from_map


@operation
@dataclass(frozen=True, eq=False)
class Stitch(Operation):
    """A map put together of positions of other maps, neuron by neuron.

    All tensors are of one space.

    Attributes:
        sources: tensors, each with positions of its own.
        index: (positions out,) int64: the place of each among the positions of ``sources``, one source after
            the other, flattened.
    """

    name: str
    sources: tuple[str, ...]
    target: str
    index: np.ndarray

    def compute(self, *sources: np.ndarray) -> np.ndarray:
        """See ``Operation``."""
        return from_map(np.concatenate([as_map(x) for x in sources], axis=2).take(self.index, axis=2))

    def vjp(self, g: np.ndarray, target: np.ndarray, *sources: np.ndarray) -> list[np.ndarray]:
        """See ``Operation``."""
        ends = np.cumsum([as_map(x).shape[2] for x in sources])
        parts = np.split(add_up(as_map(g), self.index, ends[-1], axis=2), ends[:-1], axis=2)
        return [part.reshape(x.shape) for part, x in zip(parts, sources, strict=True)]

    def is_binary(self, *sources: bool) -> bool:
        """Values that are put together."""
        return all(sources)

    def gain(self, sources: Sequence[Shape], target: Shape) -> list[float]:
        """√ of the largest number of times that a position is taken."""
        ends = np.cumsum([source.values for source in sources])
        counts = np.split(np.bincount(self.index, minlength=ends[-1]), ends[:-1])
        return [math.sqrt(count.max()) for count in counts]

    def cost(self, target: Shape) -> Cost:
        """One pass over all values."""
        return Cost(target.values, False)

    def neurons(self, *sources: np.ndarray) -> np.ndarray:
        """See ``Operation``."""
        return sources[0]

    def ties(self, *sources: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """All sources: their neurons are joined one by one."""
        return [(sources[0], other) for other in sources[1:]]

    def faults(self, sources: Sequence[Shape], target: Shape) -> Iterator[str]:
        """See ``Operation``."""
        yield from index_faults(self.index, target.values, 0, sum(source.values for source in sources))
