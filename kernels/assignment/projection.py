"""Taking one input out of all correlations, in one pass over them."""

from __future__ import annotations

import numpy as np

from ..jit import jit


@jit
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
