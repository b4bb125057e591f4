"""Retention of tokens that lie one after the other: what they read of those before them is in a state.

Many tokens of a sequence go in chunks: inside of one with each other, and with those before it by the state.
Few go one by one, each with the state as it is then.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..arguments import DOUBLE, FLOAT, INTEGERS, REAL, Array
from ..jit import jit
from ..llvm.row_products import add_rows
from ..registry import Need, kernel

# Tokens of a chunk, and so many go one by one.
CHUNK, FEW = 64, 4

_TOKENS = Array(REAL, 3)


class _Space(NamedTuple):
    """Memory for a chunk.

    Attributes:
        powers: of the decay, (CHUNK + 1,).
        queries, keys: of a head, (d, CHUNK).
        values: by token, (CHUNK, e).
        products: of keys with queries, (CHUNK, CHUNK).
        column: of queries, keys or a state, (d,).
        result: (e,).
    """

    powers: np.ndarray
    queries: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    products: np.ndarray
    column: np.ndarray
    result: np.ndarray


@kernel(
    arguments={
        "queries": _TOKENS,
        "keys": _TOKENS,
        "values": _TOKENS,
        "states": Array(REAL, 4),
        "sequences": Array(INTEGERS, 2),
        "decay": Array(DOUBLE, 1),
        "scale": FLOAT,
        "out": _TOKENS,
    },
    need=Need.NONE,
    replayed=True,
)
def retain(
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    states: np.ndarray,
    sequences: np.ndarray,
    decay: np.ndarray,
    scale: float,
    out: np.ndarray,
) -> None:
    """Retention of every token and head, from the states of sequences, which go on; see ``operations``.

    Args:
        queries, keys: (H, d, tokens).
        values: (H, e, tokens).
        states: (H, slots, d, e): for each sequence the sum of keys times values, decayed.
        sequences: a row for each: its first token, how many there are, its slot, and how many came before
            them; where none did, the state is not looked at.  Rows without tokens are left out.
        decay: of each head, (H,).
        scale: of the products.
        out: as values, not overlapping the others.
    """
    if out.size == 0:
        return
    factor = queries.dtype.type(scale)
    space = _space(queries.shape[1], values.shape[1], queries.dtype)
    for h in range(len(queries)):
        for t in range(len(space.powers)):
            space.powers[t] = decay[h] ** t
        for s in range(len(sequences)):
            first, count, slot, past = sequences[s]
            if count == 0:
                continue
            state = states[h, slot]
            if past == 0:
                state[:, :] = 0
            for t in range(count if count <= FEW else 0):
                _step(queries[h], keys[h], values[h], first + t, state, factor, space, out[h])
            for t in range(0, count if count > FEW else 0, CHUNK):
                part = first + t, min(CHUNK, count - t)
                _chunk(queries[h], keys[h], values[h], part, state, factor, space, out[h])
            for t in range(count):
                _divide(out[h], first + t, _weight(decay[h], past + t + 1))


@jit
def _space(d: int, e: int, real: np.dtype) -> _Space:
    return _Space(
        np.empty(CHUNK + 1, real),
        np.empty((d, CHUNK), real),
        np.empty((d, CHUNK), real),
        np.empty((CHUNK, e), real),
        np.empty((CHUNK, CHUNK), real),
        np.empty(d, real),
        np.empty(e, real),
    )


@jit
def _weight(decay: float, tokens: int) -> float:
    """√ of the sum of the powers of the decay from 0 on, as many as there are tokens."""
    if decay == 1:
        return math.sqrt(tokens)
    return math.sqrt(-math.expm1(tokens * math.log(decay)) / (1 - decay))


@jit
def _divide(out: np.ndarray, t: int, weight: float) -> None:
    factor = out.dtype.type(1 / weight)
    for j in range(len(out)):
        out[j, t] *= factor


@jit
def _step(
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    t: int,
    state: np.ndarray,
    scale: float,
    space: _Space,
    out: np.ndarray,
) -> None:
    """One token t of a head: the state goes on, and is read."""
    value, result, passed = space.values[0], space.result, space.powers[1]
    for j in range(value.size):
        value[j], result[j] = values[j, t], 0
    for i in range(len(keys)):
        row, key = state[i], keys[i, t] * scale
        for j in range(row.size):
            row[j] = passed * row[j] + key * value[j]
    _add(state, result.size, _column(queries, t, space), result)
    for j in range(result.size):
        out[j, t] = result[j]


@jit
def _chunk(
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    part: tuple[int, int],
    state: np.ndarray,
    scale: float,
    space: _Space,
    out: np.ndarray,
) -> None:
    """Tokens of a head that follow one another: the first of them, and how many."""
    first, count = part
    _read(queries, keys, values, part, scale, space)
    for m in range(count):
        _multiply(_column(keys, first + m, space), m, count, scale, space)
    for i in range(len(queries)):
        row = space.queries[i]
        for t in range(count):
            row[t] *= space.powers[t + 1]
    for j in range(len(out)):
        row = out[j, first : first + count]
        for t in range(count):
            row[t] = 0
        _add(space.queries, count, _column(state, j, space), row)
        _add(space.products, count, values[j, first : first + count], row)
    for i in range(len(state)):
        row = state[i]
        for j in range(row.size):
            row[j] *= space.powers[count]
        _add(space.values, row.size, space.keys[i, :count], row)


@jit
def _read(
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    part: tuple[int, int],
    scale: float,
    space: _Space,
) -> None:
    """Queries, keys weighed by their distance from the end of the chunk, and values by token."""
    first, count = part
    for i in range(len(queries)):
        for t in range(count):
            space.queries[i, t] = queries[i, first + t]
            space.keys[i, t] = keys[i, first + t] * (scale * space.powers[count - 1 - t])
    for j in range(len(values)):
        for t in range(count):
            space.values[t, j] = values[j, first + t]


@jit
def _multiply(key: np.ndarray, m: int, count: int, scale: float, space: _Space) -> None:
    """Products of key m of a chunk with its queries, weighed by the distance; 0 of earlier ones."""
    row = space.products[m]
    for t in range(count):
        row[t] = 0
    _add(space.queries, count, key, row)
    for t in range(count):
        row[t] *= scale * space.powers[t - m] if t >= m else 0


@jit
def _column(rows: np.ndarray, j: int, space: _Space) -> np.ndarray:
    """Column j of some rows, in one piece."""
    for i in range(len(rows)):
        space.column[i] = rows[i, j]
    return space.column


@jit
def _add(rows: np.ndarray, count: int, weights: np.ndarray, out: np.ndarray) -> None:
    """out[t] += Σ_r weights[r] · rows[r, t] for t below ``count``."""
    add_rows(rows.reshape(-1), 0, rows.shape[1], count, weights, out)
