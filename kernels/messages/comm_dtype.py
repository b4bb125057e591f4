"""Rows of activations in fewer bits, for messages.

The formats are those of ``repurpose_hpc.model.comm_dtype``, told apart by the type of the codes: uint16 is
the upper half of a float32, int16 the bits of a float16, int8 a multiple of the row's scale (-128: NaN).
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from ..arguments import CODES, INDEX, REAL, SINGLE, Array
from ..jit import jit
from ..llvm.halves import half_bits, half_number
from ..registry import kernel

_LARGEST_FLOAT16 = 65504.0
_LARGEST_CODE, _NAN_CODE = 127, -128

_SCALES = Array(SINGLE, 1)


@kernel(
    arguments={
        "X": Array(REAL, 2),
        "rows": Array(INDEX, 1),
        "scales": _SCALES,
        "codes": Array(CODES, 2),
    },
    replayed=True,
)
def pack_codes(X: np.ndarray, rows: np.ndarray, scales: np.ndarray, codes: np.ndarray) -> None:
    """codes[k] = X[rows[k]] encoded: X (neurons, batch), rows and scales (count,), codes (count, batch)."""
    for k in range(rows.size):
        row, scale = rows[k], scales[k]
        for b in range(X.shape[1]):
            codes[k, b] = encoded(np.float32(X[row, b]), scale, codes)


@kernel(arguments={"codes": Array(CODES, 2), "scales": _SCALES, "X": Array(REAL, 2)}, replayed=True)
def unpack_codes(codes: np.ndarray, scales: np.ndarray, X: np.ndarray) -> None:
    """X[k] = codes[k] decoded, with codes and X (count, batch), scales (count,)."""
    for k in range(scales.size):
        scale = scales[k]
        for b in range(X.shape[1]):
            X[k, b] = decoded(codes[k, b], scale)


def encoded(value: np.float32, scale: np.float32, codes: np.ndarray) -> np.integer:
    """The code of one number, of the type of ``codes``."""
    if codes.dtype == np.uint16:
        return _to_bfloat16(value)
    if codes.dtype == np.int16:
        return half_bits(_clipped(value, np.float32(_LARGEST_FLOAT16)))
    return _to_int8(value, scale)


@overload(encoded)
def _encoded(value, scale, codes):
    if codes.dtype == types.uint16:
        return lambda value, scale, codes: _to_bfloat16(value)
    if codes.dtype == types.int16:
        return lambda value, scale, codes: half_bits(_clipped(value, np.float32(_LARGEST_FLOAT16)))
    return lambda value, scale, codes: _to_int8(value, scale)


def decoded(code: np.number, scale: np.float32) -> np.float32:
    """The number that a code stands for."""
    if isinstance(code, np.uint16):
        return np.uint32(np.uint32(code) << np.uint32(16)).view(np.float32)
    if isinstance(code, np.int16):
        return half_number(code)
    return _from_int8(code, scale)


@overload(decoded)
def _decoded(code, scale):
    if code == types.uint16:
        return lambda code, scale: np.uint32(np.uint32(code) << np.uint32(16)).view(np.float32)
    if code == types.int16:
        return lambda code, scale: half_number(code)
    return lambda code, scale: _from_int8(code, scale)


@jit
def _to_bfloat16(value: np.float32) -> np.uint16:
    bits = np.float32(value).view(np.uint32)
    upper = np.uint32(bits >> np.uint32(16))
    if np.isnan(value):
        return np.uint16(upper | np.uint32(0x40))
    rounded = np.uint32(bits + np.uint32(0x7FFF) + np.uint32(upper & np.uint32(1)))
    return np.uint16(rounded >> np.uint32(16))


@jit
def _to_int8(value: np.float32, scale: np.float32) -> np.int8:
    if np.isnan(value):
        return np.int8(_NAN_CODE)
    if not scale > 0:
        return np.int8(0)
    return np.int8(_clipped(np.rint(np.float32(value) / np.float32(scale)), np.float32(_LARGEST_CODE)))


@jit
def _from_int8(code: int, scale: np.float32) -> np.float32:
    return np.float32(np.nan) if code == _NAN_CODE else np.float32(code) * np.float32(scale)


@jit
def _clipped(value: np.float32, largest: np.float32) -> np.float32:
    """Between -largest and largest; NaN stays NaN."""
    value = largest if value > largest else value
    return -largest if value < -largest else value
