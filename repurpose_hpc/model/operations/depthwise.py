"""Convolutions of every neuron by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.model.operations.operation import Cost, OneSource, Rows, Shape, dtype_faults, operation
from repurpose_hpc.model.operations.patches import as_map, from_map, pad, spread, tap_views
from repurpose_hpc.model.operations.window import Window


@operation
@dataclass(frozen=True, eq=False)
class Depthwise(OneSource):
    """A convolution of every neuron by itself: both tensors are of one space.

    Attributes:
        weights: (n, k).
        bias: (n,).
        window: of the convolution.
    """

    name: str
    source: str
    target: str
    weights: np.ndarray
    bias: np.ndarray
    window: Window

    def compute(self, *sources: np.ndarray) -> np.ndarray:
        """See ``Operation``."""
        (x,) = sources
        weights, bias = (array.astype(x.dtype, copy=False) for array in (self.weights, self.bias))
        shape = -1, *(1,) * (1 + len(self.window.out))
        views = tap_views(self.window, pad(self.window, x, 0))
        total = sum(weights[:, tap].reshape(shape) * view for tap, view in enumerate(views))
        return from_map(total + bias.reshape(shape))

    def vjp(self, g: np.ndarray, target: np.ndarray, *sources: np.ndarray) -> list[np.ndarray]:
        """See ``Operation``."""
        (x,) = sources
        g, weights = as_map(g), self.weights.astype(g.dtype, copy=False)
        return [spread(self.window, x, lambda tap: weights[:, tap, None, None] * g)]

    def gradient(self, g: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The gradients of gᵀ target by weights and bias; arguments and results as of ``Mixing``."""
        g = as_map(g).reshape(*g.shape[:2], *self.window.out)
        views = tap_views(self.window, pad(self.window, x, 0))
        every = tuple(range(1, g.ndim))
        by_tap = [(view * g).sum(axis=every) for view in views]
        return np.stack(by_tap, axis=1).astype(g.dtype, copy=False), g.sum(axis=every)

    def restricted(self, target: Rows, *sources: Rows) -> Depthwise:
        """See ``Operation``."""
        return replace(self, weights=self.weights[target.neurons], bias=self.bias[target.neurons])

    def gain(self, sources: Sequence[Shape], target: Shape) -> list[float]:
        """Upper bound of the norm: that of the largest filter, √q times where windows overlap q times."""
        return [math.sqrt(self.window.overlap()) * float(np.linalg.norm(self.weights, axis=1).max())]

    def cost(self, target: Shape) -> Cost:
        """One pass for every entry of the window."""
        return Cost(math.prod(self.window.out[:-1]) * self.window.taps, True)

    def faults(self, sources: Sequence[Shape], target: Shape) -> Iterator[str]:
        """See ``Operation``."""
        (source,) = sources
        yield from self.window.faults(source, target)
        yield from dtype_faults(weights=self.weights, bias=self.bias)
        expected = (source.neurons, self.window.taps)
        if (self.weights.shape, self.bias.shape) != (expected, expected[:1]):
            yield (
                f"expected weights {expected} and bias {expected[:1]}, "
                f"found {self.weights.shape} and {self.bias.shape}"
            )
