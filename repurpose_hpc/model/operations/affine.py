"""Scales and shifts, neuron by neuron."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.model.operations.operation import (
    Cost,
    OneSource,
    Rows,
    Shape,
    dtype_faults,
    operation,
    same_positions,
)


@operation
@dataclass(frozen=True, eq=False)
class Affine(OneSource):
    """``target = scale * source + shift``, neuron by neuron: a normalisation that could not be folded.

    Attributes:
        scale, shift: (n, 1), or (n, positions) where they differ from place to place.
    """

    name: str
    source: str
    target: str
    scale: np.ndarray
    shift: np.ndarray

    def compute(self, *sources: np.ndarray) -> np.ndarray:
        """See ``Operation``."""
        (x,) = sources
        scale, shift = (array.astype(x.dtype, copy=False) for array in (self.scale, self.shift))
        return x * scale + shift if x.ndim == 2 else x * scale[:, None] + shift[:, None]

    def vjp(self, g: np.ndarray, target: np.ndarray, *sources: np.ndarray) -> list[np.ndarray]:
        """See ``Operation``."""
        scale = self.scale.astype(g.dtype, copy=False)
        return [g * (scale if g.ndim == 2 else scale[:, None])]

    def restricted(self, target: Rows, *sources: Rows) -> Affine:
        """See ``Operation``."""
        return replace(self, scale=self.scale[target.neurons], shift=self.shift[target.neurons])

    def gain(self, sources: Sequence[Shape], target: Shape) -> list[float]:
        """The largest scale."""
        return [float(np.abs(self.scale).max())]

    def cost(self, target: Shape) -> Cost:
        """One pass over all values."""
        return Cost(target.values, False)

    def faults(self, sources: Sequence[Shape], target: Shape) -> Iterator[str]:
        """See ``Operation``."""
        (source,) = sources
        yield from same_positions(source, target)
        for name, array in (("scale", self.scale), ("shift", self.shift)):
            yield from dtype_faults(**{name: array})
            if array.shape not in ((source.neurons, 1), (source.neurons, source.values)):
                yield (
                    f"expected a {name} for each of {source.neurons} neurons, or of their {source.values} "
                    f"values, found shape {array.shape}"
                )
