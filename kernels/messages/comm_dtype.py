"""Rows of activations in fewer bits, for messages.

The formats are those of ``repurpose_hpc.model.comm_dtype``.  ``pack_codes`` makes numbers of 16 bits, told
apart by their type: uint16 is the upper half of a float32, int16 the bits of a float16.

``pack_bytes`` makes rows of bytes, a byte for each sample.  Each neuron takes a number of *halves* of such
rows, from a place that is counted in them:

- one half, int4: the lower or upper four bits of a row, a multiple of the neuron's step (-8: NaN);
- two halves, int8: a row, a multiple of its step (-128: NaN);
- four halves, float16: two rows, the lower and then the upper byte.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from ..arguments import CODES, INDEX, REAL, SINGLE, Array
from ..jit import jit
from ..llvm.halves import half_bits, half_number
from ..registry import kernel

_LARGEST_FLOAT16 = np.float32(65504.0)
# The largest codes of int8 and int4.
_BYTE, _HALF = np.float32(127), np.float32(7)

_STEPS, _PLACES = Array(SINGLE, 1), Array(INDEX, 1)


@kernel(
    arguments={"X": Array(REAL, 2), "rows": Array(INDEX, 1), "codes": Array(CODES, 2)},
    replayed=True,
)
def pack_codes(X: np.ndarray, rows: np.ndarray, codes: np.ndarray) -> None:
    """codes[k] = X[rows[k]] encoded: X (neurons, batch), rows (count,), codes (count, batch) of 16 bits."""
    for k in range(rows.size):
        row = rows[k]
        for b in range(X.shape[1]):
            codes[k, b] = encoded(np.float32(X[row, b]), codes)


@kernel(arguments={"codes": Array(CODES, 2), "X": Array(REAL, 2)}, replayed=True)
def unpack_codes(codes: np.ndarray, X: np.ndarray) -> None:
    """X[k] = codes[k] decoded, with codes, of 16 bits, and X (count, batch)."""
    for k in range(codes.shape[0]):
        for b in range(X.shape[1]):
            X[k, b] = decoded(codes[k, b])


@kernel(
    arguments={
        "X": Array(REAL, 2),
        "rows": Array(INDEX, 1),
        "steps": _STEPS,
        "places": _PLACES,
        "halves": _PLACES,
        "message": Array(CODES, 2),
    },
    replayed=True,
)
def pack_bytes(
    X: np.ndarray,
    rows: np.ndarray,
    steps: np.ndarray,
    places: np.ndarray,
    halves: np.ndarray,
    message: np.ndarray,
) -> None:
    """Write X[rows[k]] into a message, from its place on; of two that share a row, the lower half first.

    Args:
        X: (neurons, batch).
        rows, steps: of each neuron that is sent, (count,).
        places, halves: where it begins, and what it takes, in halves of rows, (count,); see the module.
        message: int8, (rows of bytes, batch).
    """
    for k in range(rows.size):
        row, step, line = rows[k], steps[k], places[k] >> 1
        if halves[k] == 4:
            for b in range(X.shape[1]):
                bits = half_bits(_clipped(np.float32(X[row, b]), _LARGEST_FLOAT16))
                message[line, b] = ((bits & 255) ^ 128) - 128
                message[line + 1, b] = bits >> 8
        elif halves[k] == 2:
            for b in range(X.shape[1]):
                message[line, b] = _to_multiple(np.float32(X[row, b]), step, _BYTE)
        elif places[k] & 1:
            for b in range(X.shape[1]):
                message[line, b] |= _to_multiple(np.float32(X[row, b]), step, _HALF) << 4
        else:
            for b in range(X.shape[1]):
                message[line, b] = _to_multiple(np.float32(X[row, b]), step, _HALF) & 15


@kernel(
    arguments={
        "message": Array(CODES, 2),
        "steps": _STEPS,
        "places": _PLACES,
        "halves": _PLACES,
        "X": Array(REAL, 2),
    },
    replayed=True,
)
def unpack_bytes(
    message: np.ndarray, steps: np.ndarray, places: np.ndarray, halves: np.ndarray, X: np.ndarray
) -> None:
    """X[k] = the neuron at places[k] of a message, with X (count, batch); see ``pack_bytes``."""
    for k in range(steps.size):
        step, line = steps[k], places[k] >> 1
        if halves[k] == 4:
            for b in range(X.shape[1]):
                upper, lower = np.int16(message[line + 1, b]), np.int16(message[line, b])
                X[k, b] = half_number(np.int16((upper << 8) | (lower & 255)))
        elif halves[k] == 2:
            for b in range(X.shape[1]):
                X[k, b] = _from_multiple(message[line, b], step, _BYTE)
        elif places[k] & 1:
            for b in range(X.shape[1]):
                X[k, b] = _from_multiple(message[line, b] >> 4, step, _HALF)
        else:
            for b in range(X.shape[1]):
                X[k, b] = _from_multiple(((message[line, b] & 15) ^ 8) - 8, step, _HALF)


def encoded(value: np.float32, codes: np.ndarray) -> np.integer:
    """The code of one number, of the type of ``codes``."""
    if codes.dtype == np.uint16:
        return _to_bfloat16(value)
    return half_bits(_clipped(value, _LARGEST_FLOAT16))


@overload(encoded)
def _encoded(value, codes):
    if codes.dtype == types.uint16:
        return lambda value, codes: _to_bfloat16(value)
    return lambda value, codes: half_bits(_clipped(value, _LARGEST_FLOAT16))


def decoded(code: np.uint16 | np.int16) -> np.float32:
    """The number that a code stands for."""
    if isinstance(code, np.uint16):
        return np.uint32(np.uint32(code) << np.uint32(16)).view(np.float32)
    return half_number(code)


@overload(decoded)
def _decoded(code):
    if code == types.uint16:
        return lambda code: np.uint32(np.uint32(code) << np.uint32(16)).view(np.float32)
    return lambda code: half_number(code)


@jit
def _to_bfloat16(value: np.float32) -> np.uint16:
    bits = np.float32(value).view(np.uint32)
    upper = np.uint32(bits >> np.uint32(16))
    if np.isnan(value):
        return np.uint16(upper | np.uint32(0x40))
    rounded = np.uint32(bits + np.uint32(0x7FFF) + np.uint32(upper & np.uint32(1)))
    return np.uint16(rounded >> np.uint32(16))


@jit
def _to_multiple(value: np.float32, step: np.float32, largest: np.float32) -> np.int8:
    """The multiple of ``step`` nearest to a number; one beyond the least for NaN."""
    if np.isnan(value):
        return np.int8(-largest - 1)
    if not step > 0:
        return np.int8(0)
    return np.int8(_clipped(np.rint(np.float32(value) / np.float32(step)), largest))


@jit
def _from_multiple(code: int, step: np.float32, largest: np.float32) -> np.float32:
    return np.float32(np.nan) if code < -largest else np.float32(code) * np.float32(step)


@jit
def _clipped(value: np.float32, largest: np.float32) -> np.float32:
    """Between -largest and largest; NaN stays NaN."""
    value = largest if value > largest else value
    return -largest if value < -largest else value
