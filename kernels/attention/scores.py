"""Scores of queries and keys: which there are, and what becomes of them before the softmax."""

from __future__ import annotations

import numpy as np

from ..arguments import AttentionRule
from ..jit import jit
from ..llvm.softmax import limit_scores


@jit
def seen_range(rule: AttentionRule, i: int, T: int) -> tuple[int, int]:
    """The first of ``T`` keys that query ``i`` sees, and the one behind the last; equal if it sees none."""
    first = max(0, rule.past + i - rule.before) if rule.before >= 0 else 0
    end = min(T, rule.past + i + rule.after + 1) if rule.after >= 0 else T
    return min(first, T), max(end, min(first, T))


@jit
def adjust_tile(
    scores: np.ndarray,
    shape: tuple[int, int],
    bias: np.ndarray,
    rule: AttentionRule,
    place: tuple[int, int, int],
    j: int,
) -> None:
    """Limit scores, add the bias, and make -inf of those that are not seen.

    Args:
        scores: of a tile, (keys, queries); only of ``shape`` they are looked at.
        shape: see there.
        bias, rule: as of ``attend``.
        place: head, sample and first query.
        j: first key.
    """
    keys, count = shape
    if rule.softcap != 0:
        limit_scores(scores[:keys].reshape(-1), rule.softcap)
    if bias.size:
        _add_bias(scores, shape, bias_of(bias, place[0], place[1]), place[2], j)
    for k in range(keys):
        # Of the queries that see a key, the first and the one behind the last, counted from that of the tile.
        distance = j + k - rule.past - place[2]
        first = min(max(0, distance - rule.after), count) if rule.after >= 0 else 0
        end = max(distance + rule.before + 1, first) if rule.before >= 0 else count
        for t in range(first):
            scores[k, t] = -np.inf
        for t in range(end, count):
            scores[k, t] = -np.inf


@jit
def bias_of(bias: np.ndarray, h: int, n: int) -> np.ndarray:
    """The bias, (1 or S, T), of a head and sample."""
    return bias[min(h, bias.shape[0] - 1), min(n, bias.shape[1] - 1)]


@jit
def _add_bias(scores: np.ndarray, shape: tuple[int, int], bias: np.ndarray, i: int, j: int) -> None:
    keys, count = shape
    if len(bias) == 1:
        for k in range(keys):
            number = bias[0, j + k]
            for t in range(count):
                scores[k, t] += number
        return
    for t in range(count):
        for k in range(keys):
            scores[k, t] += bias[i + t, j + k]
