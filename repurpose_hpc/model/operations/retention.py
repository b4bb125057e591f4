"""Retention: a position of a head reads those before it, weighed by products and by their distance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.model.operations.operation import Cost, Operation, Rows, Shape, dtype_faults, operation
from repurpose_hpc.model.operations.patches import as_map, from_map, joined, split

# Multiplications for a value, in the field of forecasts: with about so many rows of a state.
_STATE_ROWS = 64


@operation
@dataclass(frozen=True, eq=False)
class Retention(Operation):
    """``y_n = Σ_m scale (q_n · k_m) d^(n-m) v_m / √(Σ_m d^(n-m))`` for every head, m from 0 to n.

    What a position reads of those before it is a product with their state, ``S_n = d S_(n-1) + k_n v_nᵀ``,
    whose size does not depend on how many there are.  Here all positions are computed at once (the parallel
    form).  A tensor has the neurons of one head after those of the other.  A head belongs to one worker.
    Source: Sun et al., "Retentive Network: A Successor to Transformer for Large Language Models" (2023).

    Attributes:
        sources: queries and keys (H d neurons, S positions each), and values (H e, S).
        decay: d of each head, above 0 and at most 1, (H,).
        scale: of the products.
    """

    looks_around = True

    name: str
    sources: tuple[str, ...]
    target: str
    decay: np.ndarray
    scale: float

    @property
    def heads(self) -> int:
        """H."""
        return len(self.decay)

    def compute(self, *sources: np.ndarray) -> np.ndarray:
        """See ``Operation``."""
        if not self.heads:
            return sources[2]
        queries, keys, values = map(self._by_head, sources)
        weights = self.weights(queries.shape[3], queries.dtype)
        heads = [
            V @ ((Q.swapaxes(1, 2) @ K) * W).swapaxes(1, 2)
            for Q, K, V, W in zip(queries, keys, values, weights, strict=True)
        ]
        return from_map(joined(np.stack(heads)))

    def weights(self, positions: int, dtype: np.dtype) -> np.ndarray:
        """What products of positions are multiplied by, (heads, of queries, of keys); 0 for later ones."""
        distance = np.arange(positions)[:, None] - np.arange(positions)
        powers = np.tril(self.decay.astype(np.float64)[:, None, None] ** np.maximum(distance, 0))
        return (self.scale * powers / np.sqrt(powers.sum(axis=2, keepdims=True))).astype(dtype)

    def vjp(self, g: np.ndarray, target: np.ndarray, *sources: np.ndarray) -> list[np.ndarray]:
        """See ``Operation``."""
        if not self.heads:
            return [np.zeros_like(source) for source in sources]
        queries, keys, values, g_heads = map(self._by_head, (*sources, g))
        weights, gradients = self.weights(queries.shape[3], queries.dtype), []
        for Q, K, V, W, g_head in zip(queries, keys, values, weights, g_heads, strict=True):
            g_products = (g_head.swapaxes(1, 2) @ V) * W
            products = (Q.swapaxes(1, 2) @ K) * W
            gradients.append((K @ g_products.swapaxes(1, 2), Q @ g_products, g_head @ products))
        of_sources = (joined(np.stack(heads)) for heads in zip(*gradients, strict=True))
        return [gradient.reshape(x.shape) for gradient, x in zip(of_sources, sources, strict=True)]

    def _by_head(self, x: np.ndarray) -> np.ndarray:
        """(heads, batch, neurons of a head, positions)."""
        return split(as_map(x), self.heads).swapaxes(1, 2)

    def restricted(self, target: Rows, *sources: Rows) -> Retention:
        """See ``Operation``: of the heads that are there."""
        return replace(self, decay=self.decay[target.parts(self.heads)])

    def gain(self, sources: Sequence[Shape], target: Shape) -> list[float]:
        """Products have none."""
        return [math.inf] * len(sources)

    def cost(self, target: Shape) -> Cost:
        """A product with a state for each position."""
        return Cost(_STATE_ROWS * target.values, False)

    def neurons(self, *sources: np.ndarray) -> np.ndarray:
        """Each has the owner of its head."""
        queries, _, values = sources
        return np.repeat(queries.reshape(self.heads, -1)[:, 0], len(values) // self.heads)

    def ties(self, *sources: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """All neurons of a head."""
        by_head = [source.reshape(self.heads, -1) for source in sources]
        first = by_head[0][:, :1]
        return [(np.broadcast_to(first, rows.shape).ravel(), rows.ravel()) for rows in by_head]

    def faults(self, sources: Sequence[Shape], target: Shape) -> Iterator[str]:
        """See ``Operation``."""
        yield from dtype_faults(decay=self.decay)
        if self.decay.ndim != 1 or not self.heads or not ((self.decay > 0) & (self.decay <= 1)).all():
            yield f"has decays {self.decay}, expected one above 0 and at most 1 for each head"
            return
        if len(sources) != 3:
            yield f"has {len(sources)} sources, expected queries, keys and values"
            return
        queries, keys, values = sources
        if queries.neurons % self.heads or values.neurons % self.heads:
            yield f"cuts {queries.neurons} and {values.neurons} neurons into {self.heads} heads"
        if queries.neurons != keys.neurons or len({source.values for source in sources}) > 1:
            yield f"joins queries {queries}, keys {keys} and values {values}"
        if (target.neurons, target.values) != (values.neurons, values.values):
            yield f"makes {target}, expected {values}"
