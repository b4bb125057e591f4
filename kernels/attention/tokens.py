"""Attention of tokens that lie one after the other, each over those of its own sequence and over its past.

Keys and values are kept from call to call: those of new tokens are put behind the ones that are there.
"""

from __future__ import annotations

import numpy as np

from ..arguments import ATTENTION, INTEGER, INTEGERS, KEPT, REAL, Array, AttentionRule
from ..jit import jit
from ..llvm.panel import PANEL_VECTORS
from ..llvm.vectors import lanes
from ..registry import Need, kernel
from .blocks import attend_block, space_for
from .few import attend_query, query_space
from .kept import keep, numbers_of_kept
from .packing import pack_keys, pack_values

_TOKENS, _PAST = Array(REAL, 3), Array(KEPT, 4)


@kernel(
    arguments={
        "queries": _TOKENS,
        "keys": _TOKENS,
        "values": _TOKENS,
        "past_keys": _PAST,
        "past_values": _PAST,
        "scales": Array(REAL, 4),
        "sequences": Array(INTEGERS, 2),
        "rule": ATTENTION,
        "out": _TOKENS,
    },
    need=Need.NONE,
    replayed=True,
)
def attend_tokens(
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    past_keys: np.ndarray,
    past_values: np.ndarray,
    scales: np.ndarray,
    sequences: np.ndarray,
    rule: AttentionRule,
    out: np.ndarray,
) -> None:
    """Keep keys and values, then out = softmax(rule(queries · keys)) · values for every token and head.

    Args:
        queries: (H, d, tokens).
        keys, values: (G, d, tokens) and (G, e, tokens).
        past_keys, past_values: (G, d, slots, longest) and (G, e, slots, longest): real, ``FLOAT16`` or
            ``INT8`` (see ``kept``).
        scales: (2, G, slots, longest), of keys and values in ``INT8``; else (2, 0, 0, 0).
        sequences: a row for each: its first token, how many there are, its slot, and how many keys that has
            already; rows without tokens are left out.
        rule: counted from the first token of a sequence; ``past`` is not looked at.
        out: (H, e, tokens), not overlapping the others.
    """
    if out.size == 0:
        return
    longest = 0
    for s in range(len(sequences)):
        first, count, slot, past = sequences[s]
        if count > 0:
            keep(keys, first, count, past_keys, scales[0], slot, past)
            keep(values, first, count, past_values, scales[1], slot, past)
            longest = max(longest, past + count)
    shape = (queries.shape[0], queries.shape[1], 1, queries.shape[2])
    read, written = queries.reshape(shape), out.reshape((shape[0], out.shape[1], 1, shape[3]))
    few = lanes(queries.dtype) // 2
    for s in range(len(sequences)):
        first, count, slot, past = sequences[s]
        # Tokens are counted from the first of all, keys from the first of the sequence.
        own = AttentionRule(rule.scale, rule.softcap, rule.before, rule.after, past - first)
        part = (first, count, slot, past + count)
        if count > few:
            _many(read, past_keys, past_values, scales, part, own, written)
        elif count > 0:
            _few(read, past_keys, past_values, scales, part, own, written)


@jit
def _many(
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    scales: np.ndarray,
    part: tuple[int, int, int, int],
    rule: AttentionRule,
    out: np.ndarray,
) -> None:
    (first, count, slot, T), none = part, np.empty((0, 1, 1, 1), queries.dtype)
    space, group = space_for(queries, values, T), len(queries) // len(keys)
    width = PANEL_VECTORS * lanes(queries.dtype)
    for g in range(len(keys)):
        numbers, head, sample = numbers_of_kept(keys, scales[0], g, slot, T)
        pack_keys(numbers, head, sample, T, space.keys)
        numbers, head, sample = numbers_of_kept(values, scales[1], g, slot, T)
        pack_values(numbers, head, sample, T, space.values)
        for h in range(g * group, (g + 1) * group):
            for i in range(first, first + count, width):
                size = min(width, first + count - i)
                attend_block(queries, none, rule, (h, 0, i), size, T, space, out)


@jit
def _few(
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    scales: np.ndarray,
    part: tuple[int, int, int, int],
    rule: AttentionRule,
    out: np.ndarray,
) -> None:
    (first, count, slot, T), none = part, np.empty((0, 1, 1, 1), queries.dtype)
    space, group = query_space(queries, values, T), len(queries) // len(keys)
    for h in range(len(queries)):
        for i in range(first, first + count):
            attend_query(
                queries, keys, values, scales, none, rule, (h, 0, i), (h // group, slot, T), space, out
            )


@kernel(
    arguments={
        "x": _TOKENS,
        "positions": Array(INTEGERS, 1),
        "cos": Array(REAL, 2),
        "sin": Array(REAL, 2),
        "interleaved": INTEGER,
        "out": _TOKENS,
    },
    need=Need.NONE,
    replayed=True,
)
def turn_tokens(
    x: np.ndarray, positions: np.ndarray, cos: np.ndarray, sin: np.ndarray, interleaved: int, out: np.ndarray
) -> None:
    """Pairs of numbers of a head, turned by the angles of their positions; the others are copied.

    Args:
        x: (heads, size, tokens).
        positions: (tokens,).
        cos, sin: (pairs, positions that there may be), of the angles.
        interleaved: 1: a pair is (2 i, 2 i + 1); 0: (i, i + pairs).
        out: as x, not overlapping it.
    """
    pairs = len(cos)
    for h in range(len(x)):
        for i in range(pairs):
            first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + pairs)
            a, b, turned_a, turned_b = x[h, first], x[h, second], out[h, first], out[h, second]
            for t in range(positions.size):
                c, s = cos[i, positions[t]], sin[i, positions[t]]
                turned_a[t] = a[t] * c - b[t] * s
                turned_b[t] = b[t] * c + a[t] * s
        out[h, 2 * pairs :] = x[h, 2 * pairs :]


@kernel(
    arguments={
        "x": Array(REAL, 2),
        "positions": Array(INTEGERS, 1),
        "table": Array(REAL, 2),
        "out": Array(REAL, 2),
    },
    need=Need.NONE,
    replayed=True,
)
def add_positions(x: np.ndarray, positions: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    """out = x + table[:, positions].

    Args:
        x: (neurons, tokens).
        positions: (tokens,).
        table: (neurons, positions that there may be).
        out: as x, possibly x itself.
    """
    for j in range(len(x)):
        for t in range(positions.size):
            out[j, t] = x[j, t] + table[j, positions[t]]
