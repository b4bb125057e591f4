"""Mixings: layers with weights, dense or convolutional, the only operations between different spaces."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from repurpose_hpc.model.operations.operation import Cost, OneSource, Rows, Shape, dtype_faults, operation
from repurpose_hpc.model.operations.patches import as_columns, from_map, patches, spread
from repurpose_hpc.model.operations.window import Window
from repurpose_hpc.model.weights import SparseWeights, Weights, linked

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
            neuron j; k is 1 for dense layers on vectors, and where W is stored sparse.
        bias: b, shape (m,), the dtype of ``weights``.
        window: of a convolution, or of a dense layer on maps (``whole_map``); None on vectors.
        fixed: whether nothing may be pruned or adjusted: the weights are part of a definition (the sums of a
            normalisation), or those of a layer that is shared out by position.
    """

    name: str
    source: str
    target: str
    weights: Weights
    bias: np.ndarray
    window: Window | None = None
    fixed: bool = False

    @property
    def taps(self) -> int:
        """k: weights for each pair of neurons."""
        return self.window.taps if self.window else 1

    @property
    def W(self) -> np.ndarray:
        """The weights where all of them are stored, (m, n k).

        Raises:
            TypeError: they are sparse.
        """
        if isinstance(self.weights, SparseWeights):
            raise TypeError(f"{self.name}: expected weights in an array, found sparse ones")
        return self.weights

    @property
    def is_bare(self) -> bool:
        """True if weights and bias have been left out, as in the graph of a shard."""
        return self.weights.size == self.bias.size == 0

    @cached_property  # asked for by every step of restructuring
    def links(self) -> np.ndarray:
        """Dependences between neurons: bool (m, n), true where any of the k weights is not zero.

        Of sparse weights ``pattern`` tells the same without an array of all pairs.

        Raises:
            TypeError: they are sparse.
        """
        return linked(self.W, self.taps)

    @property
    def pattern(self) -> Weights:
        """What has an entry, of row and column, for each two neurons that depend on each other."""
        return self.weights if self.is_sparse else self.links

    @property
    def is_sparse(self) -> bool:
        """Whether only weights that are not zero are stored."""
        return isinstance(self.weights, SparseWeights)

    def compute(self, *sources: np.ndarray) -> np.ndarray:
        """W x + b, in the dtype of x: (m, batch) or (m, batch, positions)."""
        (x,) = sources
        W, b = self.weights.astype(x.dtype, copy=False), self.bias.astype(x.dtype, copy=False)
        if self.window is None:
            return W @ x + b[:, None]
        y = np.empty((len(W), x.shape[1], math.prod(self.window.out)), x.dtype)
        for tile in self._tiles(x):
            part = W @ patches(self.window, x[:, tile]) + b[:, None]
            y[:, tile] = part.reshape(y[:, tile].shape)
        return from_map(y)

    def _tiles(self, x: np.ndarray) -> Iterator[slice]:
        """A few samples at a time, so that their patches stay in the cache."""
        columns = math.prod(self.window.out) if self.window else 1
        step = max(1, TILE_BYTES // max(1, len(x) * self.taps * columns * x.itemsize))
        for first in range(0, x.shape[1], step):
            yield slice(first, first + step)

    def vjp(self, g: np.ndarray, target: np.ndarray, *sources: np.ndarray) -> list[np.ndarray]:
        """See ``Operation``."""
        (x,) = sources
        W, taps = self.weights.astype(g.dtype, copy=False), self.taps
        columns = as_columns(g)
        if self.window is None or self.window.is_pointwise:
            return [(W.T @ columns).reshape(x.shape)]
        if self.window.is_whole_map:
            by_tap = (W.T @ columns).reshape(len(x), taps, x.shape[1])
            return [by_tap.swapaxes(1, 2).reshape(x.shape)]
        transposed = self.transposed()
        if transposed is None:
            W = self.W.astype(g.dtype, copy=False)
            return [spread(self.window, x, lambda tap: W[:, tap::taps].T @ columns)]
        return [transposed.compute(g).reshape(x.shape)]

    def transposed(self) -> Mixing | None:
        """The convolution that makes derivatives by the source of those by the target.

        None: it is no convolution, or its maps change their size.
        """
        backward = self.window.backward() if self.window is not None and self.window.is_convolution else None
        if backward is None:
            return None
        m, sources = len(self.W), self.W.shape[1] // self.taps
        # From every neuron of the target to every one of the source, the last entry of the kernel first.
        by_entry = self.W.reshape(m, sources, self.taps)[:, :, ::-1].swapaxes(0, 1)
        weights = by_entry.reshape(sources, m * self.taps)
        return replace(self, weights=weights, bias=np.zeros(sources, weights.dtype), window=backward)

    def gradient(self, g: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The gradients of gᵀ target by weights and bias, which may have been left out (``is_bare``).

        Args:
            g: the gradient by the target, of its shape.
            x: the source as ``compute`` took it.

        Returns:
            (m, n k) and (m,), in the dtype of g: sums over all samples and positions.
        """
        by_weights = np.zeros((len(g), len(x) * self.taps), g.dtype)
        for tile in self._tiles(x):
            columns = patches(self.window, x[:, tile]).astype(g.dtype, copy=False)
            by_weights += as_columns(g[:, tile]) @ columns.T
        return by_weights, as_columns(g).sum(axis=1)

    def restricted(self, target: Rows, *sources: Rows) -> Mixing:
        """Raises TypeError: a worker's part of a mixing is a block of its shard, and reads ghosts."""
        raise TypeError(f"{self.name}: a mixing moves neurons between workers; expected a block of a shard")

    def gain(self, sources: Sequence[Shape], target: Shape) -> list[float]:
        """See ``spectral_norm``."""
        return [spectral_norm(self)]

    def cost(self, target: Shape) -> Cost:
        """Columns of the product; a window over part of a map makes it a convolution."""
        return Cost(target.values, self.window is not None and self.window.is_convolution)

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
        if isinstance(self.weights, SparseWeights):
            yield from self.weights.faults()
            if self.window is not None and not self.window.is_pointwise:
                yield "has sparse weights between maps; expected dense ones, or a position at a time"
        if self.window is not None:
            yield from self.window.faults(source, target)
        elif source.positions or target.positions:
            yield f"has no window, between maps of {source.positions} and {target.positions}"


def spectral_norm(mixing: Mixing) -> float:
    """|W|₂; of a convolution, an upper bound of its norm as a map from tensors to tensors.

    From the smaller of W Wᵀ and Wᵀ W: a third of the time of singular values.  Of sparse weights an upper
    bound: the root of the largest sums of a row and of a column, or of all squares.
    """
    norm = _norm(mixing.weights)
    return norm if mixing.window is None else norm * math.sqrt(mixing.window.overlap())


def _norm(weights: Weights) -> float:
    if isinstance(weights, SparseWeights):
        sizes = np.abs(weights.values.astype(np.float64))
        ends = weights.rows, weights.columns
        by_row, by_column = (float(np.bincount(places, sizes).max(initial=0)) for places in ends)
        return min(math.sqrt(by_row * by_column), float(np.linalg.norm(sizes)))
    W = weights.astype(np.float64)
    gram = W @ W.T if W.shape[0] <= W.shape[1] else W.T @ W
    return float(np.sqrt(max(np.linalg.eigvalsh(gram)[-1], 0.0)))
