"""Projection of all correlations onto what one input leaves of them, in one pass."""

from __future__ import annotations

import numpy as np

from ..arguments import DOUBLE, Array
from ..registry import Need, kernel

_VECTOR = Array(DOUBLE, 1)


@kernel(
    arguments={"correlation": Array(DOUBLE, 2), "t": _VECTOR, "z": _VECTOR, "squares": _VECTOR},
    need=Need.NONE,
)
def project_out(correlation: np.ndarray, t: np.ndarray, z: np.ndarray, squares: np.ndarray) -> None:
    """``correlation -= t zᵀ``, in place; ``squares`` gets the sum of squares of every column of the result.

    Args:
        correlation: (k, n) float64, C order.
        t, z: (k,) and (n,) float64.
        squares: (n,) float64, overwritten.
    """
    squares[:] = 0.0
    for i in range(correlation.shape[0]):
        row, factor = correlation[i], t[i]
        for j in range(row.size):
            rest = row[j] - factor * z[j]
            row[j] = rest
            squares[j] += rest * rest
