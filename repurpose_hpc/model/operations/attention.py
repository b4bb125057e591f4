"""Attention: every position of a head reads a weighted mean of values at other positions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from repurpose_hpc.model.operations.operation import Cost, Operation, Rows, Shape, dtype_faults, operation
from repurpose_hpc.model.operations.patches import as_map, from_map, joined, split

UNLIMITED = -1


@operation
@dataclass(frozen=True, eq=False)
class Attention(Operation):
    """``target = softmax(scale QᵀK + bias) V`` for every head, over positions (scaled dot product).

    A tensor has the neurons of one head after those of the other.  A head belongs to one worker, with grouped
    queries a head of keys and values and all heads of queries that read it.  A position that sees nothing
    gets zeros.

    Attributes:
        sources: queries (H d neurons, S positions), keys (G d, T) and values (G e, T); perhaps a mask (H
            neurons of S·T or T positions) that is added to the scores, -inf where nothing is seen.
        heads: of the queries, H.
        groups: heads of the keys and values, G; head h reads number h // (H / G).
        scale: of the scores.
        softcap: c: scores become c tanh(scores / c); 0: they stay.
        before, after: position i sees positions i - ``before`` to i + ``after`` alone; ``UNLIMITED``.  Causal
            is ``after`` 0.
        bias: added to the scores, (H or 1, S, T); (0, S, T): nothing.
        seen: bool, which positions are seen, likewise.
    """

    looks_around = True

    name: str
    sources: tuple[str, ...]
    target: str
    heads: int
    groups: int
    scale: float
    softcap: float = 0.0
    before: int = UNLIMITED
    after: int = UNLIMITED
    bias: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1), np.float32))
    seen: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1), bool))

    def compute(self, *sources: np.ndarray) -> np.ndarray:
        """See ``Operation``."""
        queries, keys, values, *masks = self._by_head(sources)
        heads = []
        for h, Q in enumerate(queries):
            _, P = self._weights(h, Q, keys[h // self._shared], masks)
            heads.append(values[h // self._shared] @ P.swapaxes(1, 2))
        return from_map(joined(np.stack(heads)) if heads else sources[0][:0])

    @property
    def _shared(self) -> int:
        """Query heads that read one head of keys and values."""
        return self.heads // self.groups

    @property
    def has_constants(self) -> bool:
        """Whether ``bias`` or ``seen`` say anything."""
        return bool(len(self.bias) or len(self.seen))

    def _by_head(self, sources: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Queries, keys and values as (heads, batch, neurons of a head, positions); the mask as it is."""
        counts = (self.heads, self.groups, self.groups)
        maps = [as_map(source) for source in sources]
        tensors = [split(x, count).swapaxes(1, 2) for count, x in zip(counts, maps, strict=False)]
        return [*tensors, *maps[3:]]

    def _weights(
        self, h: int, Q: np.ndarray, K: np.ndarray, masks: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores of head h before anything is added, (batch, S, T), and the softmax of all."""
        scores = Q.swapaxes(1, 2) @ K * Q.dtype.type(self.scale)
        if self.softcap:
            scores = self.softcap * np.tanh(scores / self.softcap)
        total = scores + self.additive(scores.shape[1:], scores.dtype, [h])[0]
        with np.errstate(over="ignore"):  # two masks of the lowest number are -inf
            for mask in masks:
                total = total + mask[h].reshape(len(scores), -1, scores.shape[2])
        largest = total.max(axis=2, keepdims=True, initial=-np.inf)
        exponentials = np.exp(total - np.where(np.isfinite(largest), largest, 0))
        sums = exponentials.sum(axis=2, keepdims=True)
        return scores, exponentials / np.where(sums == 0, 1, sums)

    def additive(
        self, shape: tuple[int, ...], dtype: np.dtype, heads: Sequence[int] | np.ndarray
    ) -> np.ndarray:
        """The constants that are added to the scores of some heads, -inf where nothing is seen.

        Args:
            shape: queries and keys, (S, T).
            dtype: of the result.
            heads: of the queries.

        Returns:
            (number of heads, S, T).
        """
        total = np.zeros((len(heads), *shape), dtype)
        if len(self.bias):
            total += np.broadcast_to(self.bias, (self.heads, *shape))[heads].astype(dtype, copy=False)
        if len(self.seen):
            total[~np.broadcast_to(self.seen, (self.heads, *shape))[heads]] = -np.inf
        total[:, ~self.band(*shape)] = -np.inf
        return total

    def band(self, queries: int, keys: int) -> np.ndarray:
        """Positions that are near enough to be seen, bool (S, T)."""
        distance = np.arange(keys) - np.arange(queries)[:, None]
        near = np.ones(distance.shape, bool)
        if self.before != UNLIMITED:
            near &= distance >= -self.before
        if self.after != UNLIMITED:
            near &= distance <= self.after
        return near

    def vjp(self, g: np.ndarray, target: np.ndarray, *sources: np.ndarray) -> list[np.ndarray]:
        """See ``Operation``."""
        queries, keys, values, *masks = self._by_head(sources)
        g_heads = split(as_map(g), self.heads).swapaxes(1, 2)
        g_queries, g_keys, g_values = (np.zeros_like(x) for x in (queries, keys, values))
        g_masks = [np.zeros_like(mask) for mask in masks]
        for h, (Q, g_head) in enumerate(zip(queries, g_heads, strict=True)):
            group = h // self._shared
            scores, P = self._weights(h, Q, keys[group], masks)
            g_values[group] += g_head @ P
            g_P = g_head.swapaxes(1, 2) @ values[group]
            g_total = P * (g_P - (g_P * P).sum(axis=2, keepdims=True))
            for mask in g_masks:
                rows = mask[h].reshape(len(scores), -1, scores.shape[2])
                mask[h] = (g_total if rows.shape[1] > 1 else g_total.sum(axis=1)).reshape(mask[h].shape)
            slope = 1 - (scores / self.softcap) ** 2 if self.softcap else 1
            g_scores = g_total * slope * Q.dtype.type(self.scale)
            g_queries[h] = keys[group] @ g_scores.swapaxes(1, 2)
            g_keys[group] += Q @ g_scores
        gradients = [*map(joined, (g_queries, g_keys, g_values)), *g_masks]
        return [gradient.reshape(source.shape) for gradient, source in zip(gradients, sources, strict=True)]

    def restricted(self, target: Rows, *sources: Rows) -> Attention:
        """See ``Operation``: of the heads that are there."""
        queries, keys = sources[:2]
        heads = queries.parts(self.heads)
        bias, seen = (array[heads] if len(array) == self.heads else array for array in (self.bias, self.seen))
        return replace(self, heads=heads.size, groups=keys.parts(self.groups).size, bias=bias, seen=seen)

    def gain(self, sources: Sequence[Shape], target: Shape) -> list[float]:
        """Scores are products, which have none."""
        return [math.inf] * len(sources)

    def cost(self, target: Shape) -> Cost:
        """Scores and means over as many positions as the target has."""
        return Cost(2 * target.values**2, False)

    def neurons(self, *sources: np.ndarray) -> np.ndarray:
        """Each has the owner of its head."""
        queries, _, values, *_ = sources
        first = queries.reshape(self.heads, -1)[:, 0]
        return np.repeat(first, len(values) // self.groups)

    def ties(self, *sources: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """All neurons of a head of keys and values, and of the query heads that read it."""
        by_group = [source.reshape(self.groups, -1) for source in sources]
        first = by_group[0][:, :1]
        return [(np.broadcast_to(first, rows.shape).ravel(), rows.ravel()) for rows in by_group]

    def faults(self, sources: Sequence[Shape], target: Shape) -> Iterator[str]:
        """See ``Operation``."""
        if len(sources) not in (3, 4):
            yield f"has {len(sources)} sources, expected queries, keys, values and perhaps a mask"
            return
        queries, keys, values, *masks = sources
        H, G = self.heads, self.groups
        if min(H, G) < 1 or H % G:
            yield f"has {H} heads and {G} of keys and values, expected the first to be a multiple"
            return
        if queries.neurons % H or keys.neurons % G or values.neurons % G:
            counts = [source.neurons for source in (queries, keys, values)]
            yield f"cuts queries, keys and values of {counts} neurons into {H} and {G} heads"
            return
        if queries.neurons // H != keys.neurons // G or keys.values != values.values:
            yield f"joins queries {queries}, keys {keys} and values {values} of {H} and {G} heads"
        expected = Shape(values.neurons // G * H, queries.positions)
        if (target.neurons, target.values) != (expected.neurons, expected.values):
            yield f"makes {target}, expected {expected}"
        yield from self._mask_faults(queries.values, keys.values, masks)

    def _mask_faults(self, queries: int, keys: int, masks: Sequence[Shape]) -> Iterator[str]:
        for mask in masks:
            if mask.neurons != self.heads or mask.values not in (keys, queries * keys):
                yield f"has a mask {mask}, expected {self.heads} neurons of {keys} or {queries * keys} values"
        for name, array in (("bias", self.bias), ("seen", self.seen)):
            if len(array) and array.shape not in ((1, queries, keys), (self.heads, queries, keys)):
                yield f"has a {name} of shape {array.shape} for {queries} queries and {keys} keys"
        yield from dtype_faults(bias=self.bias)
        if self.seen.dtype != bool:
            yield f"expected truth values in seen, found {self.seen.dtype}"
        if min(self.before, self.after) < UNLIMITED:
            yield f"sees {self.before} positions before and {self.after} after, expected 0 or more, or -1"
