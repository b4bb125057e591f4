"""Numbers of 16 bits as the processor rounds and expands them; Numba has no float16."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import overload

from .intrinsics import intrinsic


def half_bits(value: np.float32) -> np.int16:
    """The bits of the nearest float16, of a float32."""
    return np.float16(value).view(np.int16)


@overload(half_bits)
def _half_bits(value):
    return lambda value: _round(np.float32(value))


@intrinsic
def _round(typing, value):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.int16(types.float32), generate


def half_number(bits: np.int16) -> np.float32:
    """The float32 of the float16 that has these bits."""
    return np.float32(bits.view(np.float16))


@overload(half_number)
def _half_number(bits):
    return lambda bits: _expand(bits)


@intrinsic
def _expand(typing, bits):
    def generate(context, builder, signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.int16), generate
