"""Attention of a few queries, as of one against the keys of a past: keys and values are read as they lie.

Lanes of vectors are keys, which are contiguous, and each lane has a softmax of its own until all are joined.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..arguments import AttentionRule
from ..jit import jit
from ..llvm.row_products import add_rows, dot_rows
from ..llvm.softmax import exponentiate, limit_scores
from ..llvm.vectors import lanes
from .scores import bias_row, seen_range


@jit
def attend_few(
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    bias: np.ndarray,
    rule: AttentionRule,
    out: np.ndarray,
) -> None:
    """``attend`` for at most half a vector of queries."""
    (H, _, batch, S), T = queries.shape, keys.shape[3]
    none = np.empty((2, 0, 0, 0), queries.dtype)
    group, space = H // len(keys), query_space(queries, values, T)
    for g in range(len(keys)):
        for n in range(batch):
            for h in range(g * group, (g + 1) * group):
                for i in range(S):
                    attend_query(queries, keys, values, none, bias, rule, (h, n, i), (g, n, T), space, out)


class QuerySpace(NamedTuple):
    """Memory for one query.

    Attributes:
        scores: (vectors of keys, lanes).
        states: (3, lanes): largest scores, sums of exponentials, and factors of each lane.
        query: (d,), scaled.
        result: (e,).
    """

    scores: np.ndarray
    states: np.ndarray
    query: np.ndarray
    result: np.ndarray


@jit
def query_space(queries: np.ndarray, values: np.ndarray, T: int) -> QuerySpace:
    """Memory for a query and T keys; the other arguments as of ``attend``."""
    lane, real = lanes(queries.dtype), queries.dtype
    return QuerySpace(
        np.empty((-(-T // lane), lane), real),
        np.empty((3, lane), real),
        np.empty(queries.shape[1], real),
        np.empty(values.shape[1], real),
    )


@jit
def attend_query(
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    scales: np.ndarray,
    bias: np.ndarray,
    rule: AttentionRule,
    place: tuple[int, int, int],
    read: tuple[int, int, int],
    space: QuerySpace,
    out: np.ndarray,
) -> None:
    """``attend`` for one query.

    Args:
        queries, keys, values, bias, rule, out: as of ``attend``; keys and values may be in fewer bits.
        scales: of keys and values, (2, G, samples, keys); or without any.
        place: head, sample and number of the query.
        read: head and sample of the keys, and how many of these there are.
        space: for as many keys.
    """
    (h, n, i), (g, sample, T), real = place, read, queries.dtype
    scores, states, query, result = space
    first, end = seen_range(rule, i, T)
    row, stride = scores.reshape(-1), keys.shape[2] * keys.shape[3]
    for c in range(query.size):
        query[c] = queries[h, c, n, i] * real.type(rule.scale)
    row[:] = 0
    begin = (g * keys.shape[1] * keys.shape[2] + sample) * keys.shape[3] + first
    add_rows(keys.reshape(-1), begin, stride, end - first, query, row)
    if scales.size:
        row[: end - first] *= scales[0, g, sample, first:end]
    _adjust_row(row, end - first, bias, rule, place, first)
    _join_lanes(scores, -(-(end - first) // lanes(real)), states)
    if scales.size:
        row[: end - first] *= scales[1, g, sample, first:end]
    begin = (g * values.shape[1] * keys.shape[2] + sample) * keys.shape[3] + first
    dot_rows(values.reshape(-1), begin, stride, end - first, row, states[2], result)
    out[h, :, n, i] = result


@jit
def _adjust_row(
    row: np.ndarray,
    count: int,
    bias: np.ndarray,
    rule: AttentionRule,
    place: tuple[int, int, int],
    first: int,
) -> None:
    """Limit scores of the keys from ``first`` on, add the bias, and make -inf of what is behind the last."""
    if rule.softcap != 0:
        limit_scores(row, rule.softcap)
    if bias.size:
        own = bias.reshape(-1)[bias_row(bias, place) + first :]
        for t in range(count):
            row[t] += own[t]
    row[count:] = -np.inf


@jit
def _join_lanes(scores: np.ndarray, rows: int, states: np.ndarray) -> None:
    """Scores become exponentials; states[2] what those of each lane have to be multiplied with."""
    largest, totals, factors = states[0], states[1], states[2]
    largest[:] = -np.inf
    totals[:] = 0
    exponentiate(scores, rows, largest, totals, factors)
    most, total = scores.dtype.type(-np.inf), scores.dtype.type(0)
    for t in range(largest.size):
        most = max(most, largest[t])
    for t in range(largest.size):
        factors[t] = np.exp(largest[t] - most) if most > -np.inf else 0
        total += factors[t] * totals[t]
    for t in range(largest.size):
        factors[t] = factors[t] / total if total != 0 else 0
