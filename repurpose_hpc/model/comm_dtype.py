"""Formats of values on their way from one worker to another.

``float32``, the default, stands for the values as they are, in whatever precision the run computes.  For
the other formats they are cast to float32 and rounded to nearest, ties to even:

- ``bfloat16``: the upper half of a float32; the largest values become infinite, as in IEEE arithmetic.
- ``float16``: values beyond its largest, 65504, and infinities, become +-65504.
- ``int8``: multiples of the neuron's *scale*, from -127 to 127 of them; values beyond these become the
  outermost.  A scale of 0 is that of a neuron that was always zero; it arrives as 0.
- ``int4``: likewise, from -7 to 7 multiples of 127/7 scales, so that it reaches as far as int8.

NaN arrives as NaN in every format: in int8 it has the code -128, in int4 -8.

In int8 and int4, the *scaled* formats, some neurons may be *outliers*: these arrive as in float16.

Values that are 0 or 1 for any input, such as spikes, travel as a *bit*, whatever the format of others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

# The format in which values arrive as they are.
EXACT = "float32"
BFLOAT16, FLOAT16, INT8, INT4 = "bfloat16", "float16", "int8", "int4"
# That of values that are 0 or 1; nobody chooses it.
BIT = "bit"

LARGEST_CODE = 127
# The largest codes of the scaled formats.  That of NaN is one beyond the least.
LARGEST_CODES = {INT8: LARGEST_CODE, INT4: 7}
LARGEST_FLOAT16 = np.float32(65504)


def code_dtype(comm_dtype: str, dtype: np.dtype) -> np.dtype:
    """The dtype of ``encode``'s codes for values of ``dtype``."""
    return CODES.get(comm_dtype, dtype)


def scales_of(largest: np.ndarray) -> np.ndarray:
    """The scales of neurons, float32, from the largest absolute value that each takes; finite."""
    return np.minimum(largest / LARGEST_CODE, np.finfo(np.float32).max).astype(np.float32)


def steps_of(scale: np.ndarray, comm_dtype: str) -> np.ndarray:
    """Distances of neighbouring values of neurons in a scaled format, from their scales; float32, finite."""
    if comm_dtype == INT8:
        return scale
    step = scale.astype(np.float64) * (LARGEST_CODE / LARGEST_CODES[comm_dtype])
    return np.minimum(step, np.finfo(np.float32).max).astype(np.float32)


def block_bytes(neurons: np.ndarray, outliers: np.ndarray, comm_dtype: str) -> np.ndarray:
    """Bytes of messages for each sample, and for each value of a neuron.

    Two neurons of a message in int4 share a byte, and eight in BIT.

    Args:
        neurons: of each message, integers of any shape.
        outliers: those among them; they only matter in scaled formats.
        comm_dtype: one of ``COMM_DTYPES``, or BIT; EXACT is float32.
    """
    wide = outliers if comm_dtype in SCALED else 0 * outliers
    bits = (neurons - wide) * BITS[comm_dtype] + wide * BITS[FLOAT16]
    return -(-bits // 8)


def encode(values: np.ndarray, comm_dtype: str, scale: np.ndarray | None = None) -> np.ndarray:
    """Codes of ``values``, to be sent.

    Args:
        values: (neurons, ...), real.
        comm_dtype: one of ``COMM_DTYPES``.
        scale: of each neuron, (neurons,) float32, >= 0; only for scaled formats.

    Returns:
        codes of the same shape: uint16 (the upper half of a float32), int16 (the bits of a float16) or int8,
        also of int4 and BIT; for EXACT the values.
    """
    return _FORMATS[comm_dtype].encode(values, scale)


def decode(codes: np.ndarray, comm_dtype: str, scale: np.ndarray | None = None) -> np.ndarray:
    """Values from ``encode``'s codes: float32 of the same shape; for EXACT the codes themselves."""
    return _FORMATS[comm_dtype].decode(codes, scale)


def received(
    values: np.ndarray, comm_dtype: str, scale: np.ndarray | None = None, outliers: np.ndarray | None = None
) -> np.ndarray:
    """Values that arrive when ``values`` are sent, bit for bit; see ``encode`` and ``decode``.

    Args:
        values, comm_dtype, scale: see there.
        outliers: the neurons that arrive as in float16 in a scaled format, bool (neurons,); None: none.
    """
    arrived = decode(encode(values, comm_dtype, scale), comm_dtype, scale)
    if outliers is not None and comm_dtype in SCALED:
        arrived[outliers] = received(values[outliers], FLOAT16)
    return arrived


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
    return np.clip(values, -LARGEST_FLOAT16, LARGEST_FLOAT16).astype(np.float16).view(np.int16)


def _decode_float16(codes: np.ndarray, _: np.ndarray | None) -> np.ndarray:
    return codes.view(np.float16).astype(np.float32)


def _encode_steps(values: np.ndarray, scale: np.ndarray | None, comm_dtype: str) -> np.ndarray:
    largest = LARGEST_CODES[comm_dtype]
    values, step = np.asarray(values, np.float32), _steps(scale, values.ndim, comm_dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.rint(np.divide(values, step, out=np.zeros_like(values), where=step > 0))
    codes = np.clip(steps, -largest, largest)
    return np.where(np.isnan(values), -largest - 1, codes).astype(np.int8)


def _decode_steps(codes: np.ndarray, scale: np.ndarray | None, comm_dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = codes.astype(np.float32) * _steps(scale, codes.ndim, comm_dtype)
    return np.where(codes == -LARGEST_CODES[comm_dtype] - 1, np.float32(np.nan), values)


def _steps(scale: np.ndarray | None, dimensions: int, comm_dtype: str) -> np.ndarray:
    """``steps_of`` scales, (neurons,), to be multiplied with (neurons, ...)."""
    if scale is None:
        raise ValueError(f"{comm_dtype} needs a scale for every neuron")
    steps = steps_of(np.asarray(scale, np.float32), comm_dtype)
    return steps.reshape(-1, *(1,) * (dimensions - 1))


def _encode_bits(values: np.ndarray, _: np.ndarray | None) -> np.ndarray:
    return (values != 0).astype(np.int8)


def _decode_bits(codes: np.ndarray, _: np.ndarray | None) -> np.ndarray:
    return codes.astype(np.float32)


def _scaled(comm_dtype: str) -> _Format:
    """The declaration of a scaled format; its codes are bytes until they are packed into a message."""
    return _Format(
        np.dtype(np.int8),
        1 / LARGEST_CODES[comm_dtype],
        partial(_encode_steps, comm_dtype=comm_dtype),
        partial(_decode_steps, comm_dtype=comm_dtype),
        bits=8 if comm_dtype == INT8 else 4,
    )


class _Format(NamedTuple):
    """Declaration of a comm dtype.

    Attributes:
        codes: dtype of its codes; None: that of the values.
        step: the largest distance between neighbouring values, relative to the value, or to the largest one.
        encode: values and scales -> codes.
        decode: codes and scales -> values.
        bits: of a value in a message; of EXACT in a run in float32.
    """

    codes: np.dtype | None
    step: float
    encode: Callable[[np.ndarray, np.ndarray | None], np.ndarray]
    decode: Callable[[np.ndarray, np.ndarray | None], np.ndarray]
    bits: int


_FORMATS = {
    EXACT: _Format(None, 0.0, _unchanged, _unchanged, 32),
    BFLOAT16: _Format(np.dtype(np.uint16), 2.0**-7, _encode_bfloat16, _decode_bfloat16, 16),
    FLOAT16: _Format(np.dtype(np.int16), 2.0**-10, _encode_float16, _decode_float16, 16),
    INT8: _scaled(INT8),
    INT4: _scaled(INT4),
    BIT: _Format(np.dtype(np.int8), 0.0, _encode_bits, _decode_bits, 1),
}
# Those that can be chosen.
COMM_DTYPES = tuple(name for name in _FORMATS if name != BIT)
# The formats of codes that are multiples of a scale of each neuron.
SCALED = tuple(LARGEST_CODES)
# The formats in which a program keeps weights in memory.
WEIGHTS_DTYPES = EXACT, BFLOAT16, FLOAT16, INT8
# Dtypes of the codes of ``encode``, by format that rounds.
CODES = {name: declared.codes for name, declared in _FORMATS.items() if declared.codes is not None}
# Bits per value in a message; of EXACT in a run in float32.
BITS = {name: declared.bits for name, declared in _FORMATS.items()}
# ``_Format.step`` by format.
STEPS = {name: declared.step for name, declared in _FORMATS.items()}
