"""What importers of several formats do with the arrays that they read."""

from __future__ import annotations

import numpy as np

from repurpose_hpc.errors import UserError

_HALF_PRECISION = ("float16", "bfloat16")


def is_half(array: np.ndarray) -> bool:
    """True if ``array`` is float16 or bfloat16 (a type that NumPy itself does not know)."""
    return array.dtype.name in _HALF_PRECISION


def as_weights(array: np.ndarray, name: str) -> np.ndarray:
    """``array`` as float32 or float64 in native byte order, C-contiguous; half precision becomes float32.

    Args:
        array: weights or biases as read, any shape.
        name: file and array, for messages.

    Raises:
        UserError: not a floating-point type, or some value is NaN or infinite.
    """
    if is_half(array):
        array = array.astype(np.float32)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise UserError(
            f"{name}: expected float16, bfloat16, float32 or float64, found {array.dtype}; "
            "store the weights in floating point (dequantise them first)"
        )
    invalid = np.argwhere(~np.isfinite(array))
    if invalid.size:
        first = tuple(invalid[0].tolist())
        raise UserError(
            f"{name}: expected finite weights, found {array[first]} at index {first} "
            f"({len(invalid)} NaN or infinite in all); train or export the model again"
        )
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def ungrouped(weights: np.ndarray, groups: int) -> np.ndarray:
    """Weights of a convolution in groups, (m, n / groups, k), as (m, n, k), with zeros between the groups."""
    if groups == 1:
        return weights
    result = np.zeros((groups, len(weights) // groups, groups, *weights.shape[1:]), weights.dtype)
    for group, block in enumerate(np.split(weights, groups)):
        result[group, :, group] = block
    return result.reshape(len(weights), -1, weights.shape[2])
