"""The numbers that networks compute in: float32 and float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from repurpose_hpc.fields import PRECISIONS, FieldError


def precision(dtype: Any) -> np.dtype:
    """A dtype, once it is known that networks can compute in it.

    Args:
        dtype: a name, a type or a dtype of NumPy.

    Raises:
        FieldError: not float32 or float64.
    """
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in PRECISIONS:
        expected = " or ".join(PRECISIONS)
        raise FieldError("dtype", f"expected {expected}, got {name}; try dtype={PRECISIONS[0]!r}")
    return np.dtype(name)
