"""Attention of many queries: a softmax in every lane of blocks of queries, over tiles of keys.

Lanes of vectors are queries, which are contiguous.  Keys and values of a head are packed once, so that the
innermost loop of convolutions multiplies both: scores are sums over the dimensions of keys, results are sums
over keys.  A block's largest scores, sums of exponentials and results so far stay near while tiles of keys
come by; where a larger score comes, what there is so far is scaled down.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from ..arguments import ATTENTION, REAL, Array, AttentionRule
from ..jit import in_both, jit
from ..llvm.map_rows import copy_row
from ..llvm.panel import PANEL_NEURONS, PANEL_VECTORS, multiply_panel
from ..llvm.softmax import exponentiate
from ..llvm.vectors import lanes
from ..products.shares import row_shares
from ..registry import Need, kernel, thread_variant
from .few import attend_few
from .packing import copy_part, pack_keys, pack_values
from .scores import adjust_tile, seen_range

# Keys of a tile: scores of a block of queries for all of them stay in the nearest cache.
TILE_KEYS = 128

_HEADS = Array(REAL, 4)


class Space(NamedTuple):
    """Memory for a head and a block of queries, of W = ``PANEL_VECTORS`` vectors.

    Attributes:
        keys: (panels of keys, d, ``PANEL_NEURONS``).
        values: (panels of dimensions, T in whole vectors, ``PANEL_NEURONS``).
        queries: d · W numbers, scaled.
        scores: (``TILE_KEYS``, W).
        sums: (panels of dimensions, ``PANEL_NEURONS``, W), results so far.
        states: (3, W): largest scores, sums of exponentials, and factors of what there is so far.
        offsets: (at least d and ``TILE_KEYS``,) int64: multiples of W.
        near: ``PANEL_NEURONS`` vectors.
    """

    keys: np.ndarray
    values: np.ndarray
    queries: np.ndarray
    scores: np.ndarray
    sums: np.ndarray
    states: np.ndarray
    offsets: np.ndarray
    near: np.ndarray


@kernel(
    arguments={
        "queries": _HEADS,
        "keys": _HEADS,
        "values": _HEADS,
        "bias": _HEADS,
        "rule": ATTENTION,
        "out": _HEADS,
    },
    need=Need.MAPS,
)
def attend(
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    bias: np.ndarray,
    rule: AttentionRule,
    out: np.ndarray,
) -> None:
    """out = softmax(rule(queries · keys) + bias) · values, of every head and sample; 0 where nothing is seen.

    Args:
        queries: (H, d, batch, S).
        keys: (G, d, batch, T), of which head h of the queries sees h // (H / G).
        values: (G, e, batch, T).
        bias: (1 or H, 1 or batch, 1 or S, T), may be -inf; no numbers: there is none.
        rule: see there.
        out: (H, e, batch, S), not overlapping the others.
    """
    if out.size == 0:
        return
    if keys.shape[3] == 0:
        out[:] = 0
    elif queries.shape[3] <= lanes(queries.dtype) // 2:
        attend_few(queries, keys, values, bias, rule, out)
    else:
        attend_blocks(queries, keys, values, bias, rule, out)


@jit
def attend_blocks(
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    bias: np.ndarray,
    rule: AttentionRule,
    out: np.ndarray,
) -> None:
    """``attend`` for more queries than fill half a vector."""
    T, S = keys.shape[3], queries.shape[3]
    space = space_for(queries, values, T)
    group, width = len(queries) // len(keys), PANEL_VECTORS * lanes(queries.dtype)
    for g in range(len(keys)):
        for n in range(queries.shape[2]):
            pack_keys(keys, g, n, T, space.keys)
            pack_values(values, g, n, T, space.values)
            for h in range(g * group, (g + 1) * group):
                for i in range(0, S, width):
                    attend_block(queries, bias, rule, (h, n, i), min(width, S - i), T, space, out)


@jit
def space_for(queries: np.ndarray, values: np.ndarray, T: int) -> Space:
    """Memory for T keys, the other arguments as of ``attend``."""
    d, e, real = queries.shape[1], values.shape[1], queries.dtype
    lane, panels = lanes(real), -(-e // PANEL_NEURONS)
    width = PANEL_VECTORS * lane
    return Space(
        np.empty((-(-T // PANEL_NEURONS), d, PANEL_NEURONS), real),
        np.empty((panels, _filled(T, lane), PANEL_NEURONS), real),
        np.empty(d * width, real),
        np.empty((TILE_KEYS, width), real),
        np.empty((panels, PANEL_NEURONS, width), real),
        np.empty((3, width), real),
        np.arange(max(d, TILE_KEYS)) * width,
        np.empty(PANEL_NEURONS * lane, real),
    )


@in_both
def _filled(count: int, size: int) -> int:
    return -(-count // size) * size


@jit
def attend_block(
    queries: np.ndarray,
    bias: np.ndarray,
    rule: AttentionRule,
    place: tuple[int, int, int],
    count: int,
    T: int,
    space: Space,
    out: np.ndarray,
) -> None:
    """``attend`` for a block of queries of a head and sample.

    Args:
        queries, bias, rule, out: as of ``attend``.
        place: head, sample and first query.
        count: queries.
        T: keys.
        space: with keys and values packed.
    """
    _sum_block(queries, bias, rule, place, count, T, space)
    _finish_block(place, count, space, out)


@jit
def _sum_block(
    queries: np.ndarray,
    bias: np.ndarray,
    rule: AttentionRule,
    place: tuple[int, int, int],
    count: int,
    T: int,
    space: Space,
) -> None:
    """Sums of a block of queries, and what they have to be divided by, in ``space``."""
    h, n, i = place
    d, lane = queries.shape[1], lanes(queries.dtype)
    vectors = -(-count // lane)
    _load_queries(queries, rule.scale, place, vectors * lane, space)
    largest, totals, factors = (
        space.states[0, : vectors * lane],
        space.states[1, : vectors * lane],
        space.states[2, : vectors * lane],
    )
    largest[:] = -np.inf
    totals[:] = 0
    scores = space.scores.reshape(-1)
    first, last = seen_range(rule, i, T)[0], seen_range(rule, i + count - 1, T)[1]
    first = first // PANEL_NEURONS * PANEL_NEURONS
    if first >= last:
        space.sums[:] = 0
    for j in range(first, last, TILE_KEYS):
        keys = min(TILE_KEYS, last - j)
        for p in range(-(-keys // PANEL_NEURONS)):
            rows, panel = p * PANEL_NEURONS, space.keys[j // PANEL_NEURONS + p]
            tile = space.scores[rows : rows + PANEL_NEURONS]
            multiply_panel(vectors, panel, space.queries, space.offsets[:d], 0, False, tile, 0)
        adjust_tile(space.scores, (keys, count), bias, rule, place, j, space.near)
        exponentiate(space.scores, keys, largest, totals, factors)
        if j > first:
            _scale_sums(space.sums, factors)
        for p in range(len(space.values)):
            panel = space.values[p, j : j + keys]
            multiply_panel(vectors, panel, scores, space.offsets[:keys], 0, j > first, space.sums[p], 0)


@jit
def _load_queries(
    queries: np.ndarray, scale: float, place: tuple[int, int, int], filled: int, space: Space
) -> None:
    h, n, i = place
    d, S, factor = queries.shape[1], queries.shape[3], queries.dtype.type(scale)
    width, source, target = space.scores.shape[1], queries.reshape(-1), space.queries
    for c in range(d):
        row = ((h * d + c) * queries.shape[2] + n) * S
        copy_part(source, row, S, i, target, c * width, filled)
    for k in range(target.size):
        target[k] *= factor


@jit
def _scale_sums(sums: np.ndarray, factors: np.ndarray) -> None:
    """sums *= factors, unless these are all 1."""
    is_scaled = False
    for t in range(factors.size):
        is_scaled |= factors[t] != 1
    if is_scaled:
        for p in range(sums.shape[0]):
            for r in range(sums.shape[1]):
                for t in range(factors.size):
                    sums[p, r, t] *= factors[t]


@jit
def _finish_block(place: tuple[int, int, int], count: int, space: Space, out: np.ndarray) -> None:
    """Divide the sums of a block and copy them into the output."""
    (h, n, i), width, one = place, space.scores.shape[1], out.dtype.type(1)
    totals, factors, zero = space.states[1], space.states[2, :count], out.dtype.type(0)
    for t in range(count):
        factors[t] = one / totals[t] if totals[t] != 0 else zero
    _scale_sums(space.sums, factors)
    sums, target = space.sums.reshape(-1), out.reshape(-1)
    for c in range(out.shape[1]):
        to = ((h * out.shape[1] + c) * out.shape[2] + n) * out.shape[3] + i
        copy_row(sums, c * width, count, 0, 1, zero, target, to, count)


def _share_heads(
    threads: int,
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    bias: np.ndarray,
    rule: AttentionRule,
    out: np.ndarray,
) -> tuple[int, tuple]:
    return (queries.size + out.size) * keys.shape[3], (row_shares(np.arange(len(keys) + 1), threads),)


@thread_variant(attend, share=_share_heads)
def attend_threads(
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    bias: np.ndarray,
    rule: AttentionRule,
    out: np.ndarray,
    shares: np.ndarray,
) -> None:
    """``attend`` by several threads, each with its ``shares`` of the heads of keys."""
    scale, softcap, before, after, past = rule  # threads are handed its parts
    group = len(queries) // len(keys)
    for t in numba.prange(len(shares) - 1):
        first, last = shares[t], shares[t + 1]
        heads = slice(first * group, last * group)
        own_bias = bias[heads] if len(bias) > 1 else bias
        own_rule = AttentionRule(scale, softcap, before, after, past)
        attend(queries[heads], keys[first:last], values[first:last], own_bias, own_rule, out[heads])
