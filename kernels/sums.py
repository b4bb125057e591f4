"""The sum of many numbers, by one pass over memory."""

from __future__ import annotations

import numpy as np

from .jit import jit


@jit
def total(values: np.ndarray) -> float:
    """The sum of all numbers, (n,), each of which is read once; in the dtype of ``values``."""
    result = values.dtype.type(0)
    for i in range(values.size):
        result += values[i]
    return result
