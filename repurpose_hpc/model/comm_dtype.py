"""Formats of values on their way from one worker to another.

``float32``, the default, stands for the values as they are, in whatever precision the run computes.  For
the other formats they are cast to float32 and rounded to nearest, ties to even:

- ``bfloat16``: the upper half of a float32; the largest values become infinite, as in IEEE arithmetic.
- ``float16``: values beyond its largest, 65504, and infinities, become +-65504.
- ``int8``: multiples of the neuron's *scale*, from -127 to 127 of them; values beyond these become the
  outermost.  A scale of 0 is that of a neuron that was always zero; it arrives as 0.

NaN arrives as NaN in every format: in int8 it has the code -128.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# The format in which values arrive as they are.
EXACT = "float32"
BFLOAT16, FLOAT16, INT8 = "bfloat16", "float16", "int8"

LARGEST_CODE = 127
NAN_CODE = -128
_LARGEST_FLOAT16 = np.float32(65504)


def code_dtype(comm_dtype: str, dtype: np.dtype) -> np.dtype:
    """The dtype of ``encode``'s codes for values of ``dtype``."""
    return CODES.get(comm_dtype, dtype)


def scales_of(largest: np.ndarray) -> np.ndarray:
    """The scales of neurons, float32, from the largest absolute value that each takes; finite."""
    return np.minimum(largest / LARGEST_CODE, np.finfo(np.float32).max).astype(np.float32)


def encode(values: np.ndarray, comm_dtype: str, scale: np.ndarray | None = None) -> np.ndarray:
    """Codes of ``values``, to be sent.

    Args:
        values: (neurons, ...), real.
        comm_dtype: one of ``COMM_DTYPES``.
        scale: of each neuron, (neurons,) float32, >= 0; only for int8.

    Returns:
        codes of the same shape: uint16 (the upper half of a float32), int16 (the bits of a float16) or int8;
        for EXACT the values.
    """
    return _FORMATS[comm_dtype].encode(values, scale)


def decode(codes: np.ndarray, comm_dtype: str, scale: np.ndarray | None = None) -> np.ndarray:
    """Values from ``encode``'s codes: float32 of the same shape; for EXACT the codes themselves."""
    return _FORMATS[comm_dtype].decode(codes, scale)


def received(values: np.ndarray, comm_dtype: str, scale: np.ndarray | None = None) -> np.ndarray:
    """Values that arrive when ``values`` are sent, bit for bit; see ``encode`` and ``decode``."""
    return decode(encode(values, comm_dtype, scale), comm_dtype, scale)


def _unchanged(values: np.ndarray, _: np.ndarray | None) -> np.ndarray:
    return values


def _encode_bfloat16(values: np.ndarray, _: np.ndarray | None) -> np.ndarray:
    values = np.asarray(values, np.float32)
    bits = values.view(np.uint32)
    # Half a step less one, and one more where the last bit that stays is set: ties to even.
    rounded = bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))
    # Rounding could carry a NaN over to infinity: the quiet bit is set instead.
    return (np.where(np.isnan(values), bits | 0x400000, rounded) >> 16).astype(np.uint16)


def _decode_bfloat16(codes: np.ndarray, _: np.ndarray | None) -> np.ndarray:
    return (codes.astype(np.uint32) << 16).view(np.float32)


def _encode_float16(values: np.ndarray, _: np.ndarray | None) -> np.ndarray:
    values = np.asarray(values, np.float32)
    return np.clip(values, -_LARGEST_FLOAT16, _LARGEST_FLOAT16).astype(np.float16).view(np.int16)


def _decode_float16(codes: np.ndarray, _: np.ndarray | None) -> np.ndarray:
    return codes.view(np.float16).astype(np.float32)


def _encode_int8(values: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    values, scale = np.asarray(values, np.float32), _per_neuron(scale, values.ndim)
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.rint(np.divide(values, scale, out=np.zeros_like(values), where=scale > 0))
    codes = np.clip(steps, -LARGEST_CODE, LARGEST_CODE)
    return np.where(np.isnan(values), NAN_CODE, codes).astype(np.int8)


def _decode_int8(codes: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = codes.astype(np.float32) * _per_neuron(scale, codes.ndim)
    return np.where(codes == NAN_CODE, np.float32(np.nan), values)


def _per_neuron(scale: np.ndarray | None, dimensions: int) -> np.ndarray:
    """Scales, (neurons,), to be multiplied with (neurons, ...)."""
    if scale is None:
        raise ValueError("int8 needs a scale for every neuron")
    return np.asarray(scale, np.float32).reshape(-1, *(1,) * (dimensions - 1))


class _Format(NamedTuple):
    """Declaration of a comm dtype.

    Attributes:
        codes: dtype of its codes; None: that of the values.
        step: the largest distance between neighbouring values, relative to the value, or to the largest one.
        encode: values and scales -> codes.
        decode: codes and scales -> values.
    """

    codes: np.dtype | None
    step: float
    encode: Callable[[np.ndarray, np.ndarray | None], np.ndarray]
    decode: Callable[[np.ndarray, np.ndarray | None], np.ndarray]


_FORMATS = {
    EXACT: _Format(None, 0.0, _unchanged, _unchanged),
    BFLOAT16: _Format(np.dtype(np.uint16), 2.0**-7, _encode_bfloat16, _decode_bfloat16),
    FLOAT16: _Format(np.dtype(np.int16), 2.0**-10, _encode_float16, _decode_float16),
    INT8: _Format(np.dtype(np.int8), 1 / 127, _encode_int8, _decode_int8),
}
COMM_DTYPES = tuple(_FORMATS)
# Dtypes of the codes of ``encode``, by format that rounds.
CODES = {name: declared.codes for name, declared in _FORMATS.items() if declared.codes is not None}
# Bytes per value; of EXACT in a run in float32.
BYTES = {EXACT: 4} | {name: codes.itemsize for name, codes in CODES.items()}
# ``_Format.step`` by format.
STEPS = {name: declared.step for name, declared in _FORMATS.items()}
