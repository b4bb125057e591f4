"""Attention of a few queries, as of one against the keys of a past: keys and values are read as they lie.

Lanes of vectors are keys, which are contiguous, and each lane has a softmax of its own until all are joined.
"""

from __future__ import annotations

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
    (H, d, batch, S), (T, e) = queries.shape, (keys.shape[3], values.shape[1])
    lane, group, real = lanes(queries.dtype), H // len(keys), queries.dtype
    scores, states, query, result = (
        np.empty((-(-T // lane), lane), real),
        np.empty((3, lane), real),
        np.empty(d, real),
        np.empty(e, real),
    )
    for g in range(len(keys)):
        for n in range(batch):
            for h in range(g * group, (g + 1) * group):
                for i in range(S):
                    first, end = seen_range(rule, i, T)
                    for c in range(d):
                        query[c] = queries[h, c, n, i] * real.type(rule.scale)
                    place = (g * d * batch + n) * T + first
                    row = scores.reshape(-1)
                    row[:] = 0
                    add_rows(keys.reshape(-1), place, batch * T, end - first, query, row)
                    _adjust_row(row, end - first, bias, rule, (h, n, i), first)
                    _join_lanes(scores, -(-(end - first) // lane), states)
                    place = (g * e * batch + n) * T + first
                    dot_rows(values.reshape(-1), place, batch * T, end - first, row, states[2], result)
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
