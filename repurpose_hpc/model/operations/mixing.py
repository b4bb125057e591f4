"""Mixings: layers with weights, dense or convolutional, the only operations between different spaces."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from repurpose_hpc.model.operations.operation import Cost, OneSource, Shape, dtype_faults, operation
from repurpose_hpc.model.operations.patches import from_map, patches, spread
from repurpose_hpc.model.operations.window import Window

# Of patches that are multiplied at a time.
TILE_BYTES = 1 << 23


@operation
@dataclass(frozen=True, eq=False)
class Mixing(OneSource):
    """``target = weights @ source + bias``: every neuron of the target from every neuron of the source.

    Attributes:
        name: unique within the network; reports use it.
        source: the tensor that is read.
        target: the tensor that is made.
        weights: W, shape (m, n k), float32 or float64: column j k + t is entry t of the kernel for
            neuron j; k is 1 for dense layers on vectors.
        bias: b, shape (m,), the dtype of ``weights``.
        window: of a convolution, or of a dense layer on maps (``whole_map``); None on vectors.
        fixed: whether the weights are part of a definition (the sums of a normalisation) rather than
            trained, so that nothing may be pruned or adjusted.
    """

    name: str
    source: str
    target: str
    weights: np.ndarray
    bias: np.ndarray
    window: Window | None = None
    fixed: bool = False

    @property
    def taps(self) -> int:
        """k: weights for each pair of neurons."""
        return self.window.taps if self.window else 1

    @property
    def is_bare(self) -> bool:
        """True if weights and bias have been left out, as in the graph of a shard."""
        return self.weights.size == self.bias.size == 0

    @cached_property  # asked for by every step of restructuring
    def links(self) -> np.ndarray:
        """Dependences between neurons: bool (m, n), true where any of the k weights is not zero."""
        return (self.weights != 0).reshape(len(self.weights), -1, self.taps).any(axis=2)

    def compute(self, *sources: np.ndarray) -> np.ndarray:
        """W x + b, in the dtype of x: (m, batch) or (m, batch, positions)."""
        (x,) = sources
        W, b = (array.astype(x.dtype, copy=False) for array in (self.weights, self.bias))
        if self.window is None:
            return W @ x + b[:, None]
        y = np.empty((len(W), x.shape[1], math.prod(self.window.out)), x.dtype)
        # A few samples at a time, so that their patches stay in the cache.
        step = max(1, TILE_BYTES // (W.shape[1] * y.shape[2] * x.itemsize))
        for first in range(0, x.shape[1], step):
            samples = x[:, first : first + step]
            part = W @ patches(self.window, samples) + b[:, None]
            y[:, first : first + step] = part.reshape(len(W), samples.shape[1], -1)
        return from_map(y)

    def vjp(self, g: np.ndarray, target: np.ndarray, *sources: np.ndarray) -> list[np.ndarray]:
        """See ``Operation``."""
        (x,) = sources
        W = self.weights.astype(g.dtype, copy=False)
        if self.window is None:
            return [W.T @ g]
        columns = g.reshape(len(g), -1)
        if self.window.is_pointwise:
            return [(W.T @ columns).reshape(x.shape)]
        taps = self.window.taps
        return [spread(self.window, x, lambda tap: W[:, tap::taps].T @ columns)]

    def gain(self, sources: Sequence[Shape], target: Shape) -> list[float]:
        """See ``spectral_norm``."""
        return [spectral_norm(self)]

    def cost(self, target: Shape) -> Cost:
        """Columns of the product; a window over part of a map makes it a convolution."""
        window = self.window
        return Cost(target.values, window is not None and not (window.is_pointwise or window.is_whole_map))

    def neurons(self, *sources: np.ndarray) -> None:
        """See ``Operation``."""

    def faults(self, sources: Sequence[Shape], target: Shape) -> Iterator[str]:
        """See ``Operation``; weights and bias may both be left out (``is_bare``)."""
        (source,) = sources
        yield from dtype_faults(weights=self.weights, bias=self.bias)
        expected = (target.neurons, source.neurons * self.taps)
        if not self.is_bare and (self.weights.shape, self.bias.shape) != (expected, expected[:1]):
            yield (
                f"expected weights {expected} and bias {expected[:1]} from {source.neurons} neurons with "
                f"{self.taps} weights each to {target.neurons}, found {self.weights.shape}, {self.bias.shape}"
            )
        if self.window is not None:
            yield from self.window.faults(source, target)
        elif source.positions or target.positions:
            yield f"has no window, between maps of {source.positions} and {target.positions}"


def spectral_norm(mixing: Mixing) -> float:
    """|W|₂; of a convolution, an upper bound of its norm as a map from tensors to tensors.

    From the smaller of W Wᵀ and Wᵀ W: a third of the time of singular values.
    """
    W = mixing.weights.astype(np.float64)
    gram = W @ W.T if W.shape[0] <= W.shape[1] else W.T @ W
    norm = float(np.sqrt(max(np.linalg.eigvalsh(gram)[-1], 0.0)))
    return norm if mixing.window is None else norm * math.sqrt(mixing.window.overlap())
