"""Weights in the format in which they are stored, and the numbers that they stand for.

Those of 16 bits are bit patterns, bfloat16 the upper half of a float32; those of 8 are multiples of a scale.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import overload

from .intrinsics import intrinsic
from .panel import PANEL_NEURONS
from .vectors import fetch, integer, itemsize_of, opened, vector_at, vector_of

BFLOAT16, FLOAT16, INT8 = np.dtype(np.uint16), np.dtype(np.int16), np.dtype(np.int8)

# So many bytes ahead are fetched, as the processor's own fetching ends with a page.
AHEAD = 2048


class Stored(NamedTuple):
    """Weights in panels.

    Attributes:
        panels: (panels, K, R): real numbers, ``BFLOAT16``, ``FLOAT16`` or ``INT8``; R is ``PANEL_NEURONS`` or
            the numbers of a vector.
        scales: of the rows, (at least panels · R,), of ``INT8``; else (0,).
        near: memory for some of them as numbers, one-dimensional, real.
    """

    panels: np.ndarray
    scales: np.ndarray
    near: np.ndarray


def expanded(codes: np.ndarray) -> np.ndarray:
    """The numbers of an array of stored weights; of ``INT8`` the multiples."""
    if codes.dtype == BFLOAT16:
        return (codes.astype(np.uint32) << 16).view(np.float32)
    if codes.dtype == FLOAT16:
        return codes.view(np.float16).astype(np.float32)
    return codes


def expand(builder, codes, stored, vector):
    """``expanded`` for a vector of codes of the type ``stored``, in the precision of ``vector``."""
    if isinstance(stored, types.Float):
        return codes
    if stored == types.uint16:
        wide = ir.VectorType(ir.IntType(32), vector.count)
        bits = builder.shl(builder.zext(codes, wide), ir.Constant(wide, [16] * vector.count))
        numbers = builder.bitcast(bits, ir.VectorType(ir.FloatType(), vector.count))
    elif stored == types.int16:
        numbers = builder.bitcast(codes, ir.VectorType(ir.HalfType(), vector.count))
    else:
        return builder.sitofp(codes, vector)
    return numbers if numbers.type == vector else builder.fpext(numbers, vector)


def numbers_of(weights: Stored, first: int, count: int, k: int, taps: int) -> np.ndarray:
    """The numbers of ``count`` panels from ``first`` on and ``taps`` columns from ``k`` on: (count, taps, R).

    Where they lie, or, if they are stored in fewer bits, in ``weights.near`` until the next call.
    """
    codes, R = weights.panels[first : first + count, k : k + taps], weights.panels.shape[2]
    if codes.dtype == weights.near.dtype:
        return codes
    numbers = weights.near[: count * taps * R].reshape(count, taps, R)
    numbers[...] = expanded(codes)
    if codes.dtype == INT8:
        numbers *= weights.scales[first * R : (first + count) * R].reshape(count, 1, R)
    return numbers


@overload(numbers_of)
def _numbers_of(weights, first, count, k, taps):
    panels, _, near = weights.types
    if panels.dtype == near.dtype:
        return lambda weights, first, count, k, taps: weights.panels[first : first + count, k : k + taps]

    def call(weights, first, count, k, taps):
        R = weights.panels.shape[2]
        numbers = weights.near[: count * taps * R].reshape(count, taps, R)
        for p in range(count):
            codes = weights.panels[first + p, k : k + taps]
            _expand_panel(codes, weights.scales[(first + p) * R :], numbers[p])
        return numbers

    return call


@intrinsic
def _expand_panel(typing, codes, scales, numbers):
    """numbers[k] = the numbers of codes[k], (taps, R)."""

    def generate(context, builder, signature, arguments):
        parts, native = opened(context, builder, signature.args, arguments), vector_of(context, numbers)
        rows = builder.extract_value(parts[0].shape, 1)
        for count in {native.count, PANEL_NEURONS}:
            with builder.if_then(builder.icmp_signed("==", rows, integer(count))):
                _emit(context, builder, ir.VectorType(native.element, count), codes.dtype, parts)
        return context.get_dummy_value()

    return types.void(codes, scales, numbers), generate


def _emit(context, builder, vector, stored, arguments) -> None:
    """The loop over the columns of a panel; ``arguments`` as ``_expand_panel`` takes them."""
    codes, scales, numbers = arguments
    packed = ir.VectorType(context.get_data_type(stored), vector.count)
    itemsize = itemsize_of(vector)
    place = vector_at(builder, scales.data, integer(0), vector)
    scale = builder.load(place, align=itemsize) if stored == types.int8 else None
    taps = builder.extract_value(codes.shape, 0)
    with cgutils.for_range_slice(builder, integer(0), taps, integer(1), inc=True) as (k, _):
        column = builder.mul(k, integer(vector.count))
        fetch(builder, codes.data, builder.add(column, integer(AHEAD // (stored.bitwidth // 8))), True)
        loaded = builder.load(vector_at(builder, codes.data, column, packed), align=stored.bitwidth // 8)
        values = expand(builder, loaded, stored, vector)
        values = values if scale is None else builder.fmul(values, scale)
        builder.store(values, vector_at(builder, numbers.data, column, vector), align=itemsize)
