"""Scores of queries and keys: which there are, and what becomes of them before the softmax."""

from __future__ import annotations

import numpy as np

from ..arguments import AttentionRule
from ..jit import jit
from ..llvm.panel import PANEL_NEURONS
from ..llvm.samples import add_samples
from ..llvm.softmax import limit_scores
from .packing import pack_rows


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
    near: np.ndarray,
) -> None:
    """Limit scores, add the bias, and make -inf of those that are not seen.

    Args:
        scores: of a tile, (keys, queries); only of ``shape`` they are looked at.
        shape: see there.
        bias, rule: as of ``attend``.
        place: head, sample and first query.
        j: first key.
        near: ``PANEL_NEURONS`` vectors, overwritten.
    """
    keys, count = shape
    if rule.softcap != 0:
        limit_scores(scores[:keys].reshape(-1), rule.softcap)
    if bias.size:
        _add_bias(scores, shape, bias, place, j, near)
    if rule.before >= 0 or rule.after >= 0:
        _hide(scores, shape, rule, j - rule.past - place[2])


@jit
def _hide(scores: np.ndarray, shape: tuple[int, int], rule: AttentionRule, distance: int) -> None:
    """Make -inf of scores that are not seen; the first key is ``distance`` behind that of the first query."""
    keys, count = shape
    for k in range(keys):
        # Of the queries that see a key, the first and the one behind the last.
        first = min(max(0, distance + k - rule.after), count) if rule.after >= 0 else 0
        end = max(distance + k + rule.before + 1, first) if rule.before >= 0 else count
        for t in range(first):
            scores[k, t] = -np.inf
        for t in range(end, count):
            scores[k, t] = -np.inf


@jit
def bias_row(bias: np.ndarray, place: tuple[int, int, int]) -> int:
    """Numbers of the bias before those of a head, sample and query."""
    h, n, i = place
    heads, samples, queries, T = bias.shape
    return ((min(h, heads - 1) * samples + min(n, samples - 1)) * queries + min(i, queries - 1)) * T


@jit
def _add_bias(
    scores: np.ndarray,
    shape: tuple[int, int],
    bias: np.ndarray,
    place: tuple[int, int, int],
    j: int,
    near: np.ndarray,
) -> None:
    (keys, count), T, numbers, first = shape, bias.shape[3], bias.reshape(-1), bias_row(bias, place)
    if bias.shape[2] == 1:
        for k in range(keys):
            number = numbers[first + j + k]
            for t in range(count):
                scores[k, t] += number
        return
    lane, flat, one = near.size // PANEL_NEURONS, scores.reshape(-1), scores.dtype.type(1)
    for t in range(0, count, PANEL_NEURONS):
        rows = first + t * T, T, min(PANEL_NEURONS, count - t)
        for k in range(0, keys, lane):
            pack_rows(numbers, rows, T, j + k, near, 0)
            for c in range(min(lane, keys - k)):
                to = (k + c) * scores.shape[1] + t
                add_samples(flat, to, True, one, near, c * PANEL_NEURONS, flat, to)
