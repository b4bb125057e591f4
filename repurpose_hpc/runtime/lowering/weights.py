"""Packing of a block's weights, from a shard into the form in which they are multiplied.

Weights are packed strip by strip.  A strip is read from the file, rounded to the format in which it is
stored, packed, and forgotten, so that a rank never holds its weights twice.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from repurpose_hpc.kernels import pack_panels
from repurpose_hpc.model.comm_dtype import INT8, LARGEST_CODE, code_dtype, encode, scales_of
from repurpose_hpc.model.weights import SparseWeights, Weights, picked
from repurpose_hpc.plan.files.mapped import release
from repurpose_hpc.runtime.buffers import Arena

# Rows of a strip when weights are only counted.
_COUNTED_ROWS = 64
# Looked at first, of rows that may be whole multiples of a scale.
_FEW_COLUMNS = 16
# Largest difference of a multiple from a whole one: float32 rounds multiples up to 127 by less.
_WHOLE = 2.0**-13


def packed(weights: np.ndarray, weights_dtype: str, R: int, arena: Arena) -> tuple[np.ndarray, np.ndarray]:
    """Panels and scales as ``kernels.dense`` and ``kernels.convolve_direct`` take them.

    Args:
        weights: (m, n).
        weights_dtype: a format of ``model.comm_dtype``; EXACT: as they are; INT8: a scale for every row.
        R: rows of a panel.
        arena: from which the panels are taken.
    """
    (m, n), dtype = weights.shape, weights.dtype
    scales = np.zeros(-(-m // R) * R if weights_dtype == INT8 else 0, dtype)

    def strips() -> Iterator[np.ndarray]:
        for first in range(0, m, R):
            rows, scale = weights[first : first + R], None
            if weights_dtype == INT8:
                scale = row_scales(rows)
                scales[first : first + len(rows)] = scale
            yield encode(rows, weights_dtype, scale)
            release(rows)

    panels = arena.take((-(-m // R), n, R), code_dtype(weights_dtype, dtype))
    pack_panels(strips(), panels)
    return panels, scales


def row_scales(rows: np.ndarray) -> np.ndarray:
    """The scale of every row in int8, (m,) float32.

    Where all weights of a row are whole multiples of one number, at most ``LARGEST_CODE`` of it, the codes
    are exact: those of a quantised model stay its own integers.

    Args:
        rows: (m, n).
    """
    largest = np.abs(rows).max(axis=1, initial=0)
    scales = scales_of(largest)
    undecided = largest > 0
    for multiple in range(1, LARGEST_CODE):
        # A few columns tell nearly all rows that are not.
        candidates = scales_of(largest * (LARGEST_CODE / multiple))
        places = np.flatnonzero(undecided)
        places = places[_are_whole(rows[places, :_FEW_COLUMNS], candidates[places])]
        places = places[_are_whole(rows[places], candidates[places])]
        scales[places] = candidates[places]
        undecided[places] = False
    return scales


def _are_whole(rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Tell which rows are whole multiples of their scales, (m,) bool."""
    multiples = rows / scales[:, None]
    return (np.abs(multiples - np.rint(multiples)) <= _WHOLE).all(axis=1)


def columns_used(weights: Weights, taps: int) -> np.ndarray:
    """Tell which neurons have a weight that is not zero, (n,) bool, of weights (m, n taps)."""
    used = np.zeros(weights.shape[1] // taps, bool)
    if isinstance(weights, SparseWeights):
        used[weights.columns] = True
        return used
    for first in range(0, len(weights), _COUNTED_ROWS):
        if used.all():
            break
        rows = weights[first : first + _COUNTED_ROWS]
        used |= (rows != 0).reshape(len(rows), used.size, taps).any(axis=(0, 2))
        release(rows)
    return used


def with_columns(weights: Weights, order: np.ndarray, taps: int) -> Weights:
    """``weights`` (m, g taps) with its groups of columns in another order, or some of them."""
    if isinstance(weights, SparseWeights):
        return picked(weights, np.arange(len(weights)), order)
    m, n = weights.shape
    return weights.reshape(m, n // taps, taps)[:, order].reshape(m, order.size * taps)


def with_rows(weights: Weights, order: np.ndarray) -> Weights:
    """``weights`` with its rows in another order."""
    if isinstance(weights, SparseWeights):
        return picked(weights, order, np.arange(weights.shape[1]))
    return weights[order]


def let_go(weights: Weights) -> None:
    """Let go the pages of the file of weights that are packed; see ``mapped.release``."""
    if isinstance(weights, SparseWeights):
        for array in (weights.starts, weights.columns, weights.values):
            release(array)
    else:
        release(weights)


def count_nonzero(weights: Weights) -> int:
    """Number of non-zero weights."""
    if isinstance(weights, SparseWeights):
        return weights.size
    total = 0
    for first in range(0, len(weights), _COUNTED_ROWS):
        rows = weights[first : first + _COUNTED_ROWS]
        total += int(np.count_nonzero(rows))
        release(rows)
    return total
