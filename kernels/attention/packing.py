"""Keys, values and biases as the innermost loops read them: one number of some rows beside each other."""

from __future__ import annotations

import numpy as np

from ..jit import jit
from ..llvm.map_rows import copy_row
from ..llvm.panel import PANEL_NEURONS
from ..llvm.samples import copy_samples, transpose_samples
from ..llvm.tiles import MOST_SAMPLES
from ..llvm.vectors import lanes

# Dimensions at a time that are packed, while their cache lines are near.
PACKED_ROWS = 8


@jit
def pack_keys(keys: np.ndarray, g: int, n: int, T: int, panels: np.ndarray) -> None:
    """panels[p, c, r] = key p · ``PANEL_NEURONS`` + r of a head and sample, of the first T; 0 behind them."""
    d = keys.shape[1]
    source, target = keys.reshape(-1), panels.reshape(-1)
    for begin in range(0, d, PACKED_ROWS):
        for p in range(-(-T // PANEL_NEURONS)):
            for c in range(begin, min(begin + PACKED_ROWS, d)):
                row, j = ((g * d + c) * keys.shape[2] + n) * keys.shape[3], p * PANEL_NEURONS
                if j + MOST_SAMPLES <= T:
                    copy_samples(source, row + j, target, (p * d + c) * PANEL_NEURONS)
                else:
                    for r in range(PANEL_NEURONS):
                        panels[p, c, r] = source[row + j + r] if j + r < T else 0


@jit
def pack_values(values: np.ndarray, g: int, n: int, T: int, panels: np.ndarray) -> None:
    """panels[p, j, r] = dimension p · ``PANEL_NEURONS`` + r of the value of key j, of the first T; else 0."""
    e, stride, lane = values.shape[1], values.shape[3], lanes(values.dtype)
    source, target = values.reshape(-1), panels.reshape(-1)
    for p in range(len(panels)):
        first, rows = (
            (g * e + p * PANEL_NEURONS) * values.shape[2] + n,
            min(PANEL_NEURONS, e - p * PANEL_NEURONS),
        )
        for j in range(0, T, lane):
            to = (p * panels.shape[1] + j) * PANEL_NEURONS
            pack_rows(source, (first * stride, values.shape[2] * stride, rows), T, j, target, to)


@jit
def pack_rows(
    source: np.ndarray, rows: tuple[int, int, int], known: int, j: int, target: np.ndarray, to: int
) -> None:
    """Numbers ``j`` and those of a vector behind it, of ``PANEL_NEURONS`` rows: (lanes, rows) from ``to`` on.

    Args:
        source: with the rows, one-dimensional.
        rows: where the first begins, from one to the next, and how many there are; others are 0.
        known: numbers of a row; behind them are zeros.
        j: see there.
        target: one-dimensional.
        to: see there.
    """
    first, stride, count = rows
    lane = lanes(source.dtype)
    for r in range(PANEL_NEURONS):
        copy_part(source, first + r * stride, known if r < count else 0, j, target, to + r * lane, lane)
    transpose_samples(target, to)


@jit
def copy_part(
    source: np.ndarray, row: int, known: int, j: int, target: np.ndarray, to: int, count: int
) -> None:
    """target[to + t] = source[row + j + t], t below ``count``; 0 behind the ``known`` numbers of a row."""
    if j + count <= known and count % MOST_SAMPLES == 0:
        for t in range(0, count, MOST_SAMPLES):
            copy_samples(source, row + j + t, target, to + t)
    else:
        copy_row(source, row, known, j, 1, source.dtype.type(0), target, to, count)
