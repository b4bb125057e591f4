"""Packing of a block's weights, from a shard into the form in which they are multiplied.

Weights are packed strip by strip.  A strip is read from the file, rounded to the format in which it is
stored, packed, and forgotten, so that a rank never holds its weights twice.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from repurpose_hpc.kernels import pack_panels, panel_rows
from repurpose_hpc.model.comm_dtype import INT8, code_dtype, encode, scales_of
from repurpose_hpc.plan.files.mapped import release

# Rows of a strip when weights are only counted.
_COUNTED_ROWS = 64


def packed(weights: np.ndarray, weights_dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Panels and scales as ``kernels.dense`` takes them.

    Args:
        weights: (m, n).
        weights_dtype: a format of ``model.comm_dtype``; EXACT: as they are; INT8: a scale for every row.
    """
    (m, n), dtype = weights.shape, weights.dtype
    scales = np.zeros(m if weights_dtype == INT8 else 0, dtype)

    def strips() -> Iterator[np.ndarray]:
        step = panel_rows(dtype)
        for first in range(0, m, step):
            rows, scale = weights[first : first + step], None
            if weights_dtype == INT8:
                scale = scales_of(np.abs(rows).max(axis=1, initial=0))
                scales[first : first + step] = scale
            yield encode(rows, weights_dtype, scale)
            release(rows)

    return pack_panels(strips(), m, n, code_dtype(weights_dtype, dtype), dtype), scales


def count_nonzero(weights: np.ndarray) -> int:
    """Number of non-zero weights."""
    total = 0
    for first in range(0, len(weights), _COUNTED_ROWS):
        rows = weights[first : first + _COUNTED_ROWS]
        total += int(np.count_nonzero(rows))
        release(rows)
    return total
