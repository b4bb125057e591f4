"""Moves around the innermost loop of a dense product: ``MOST_SAMPLES`` numbers in a vector at a time.

The compiler would move them one by one, as it cannot know that arrays do not overlap.  All arrays are
one-dimensional here, and nothing is checked.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import overload

from .intrinsics import intrinsic
from .tiles import MOST_SAMPLES
from .vectors import add_product, integer, lanes, spread, vector_at, vector_of, zero


def copy_samples(source: np.ndarray, first: int, target: np.ndarray, to: int) -> None:
    """target[to + c] = source[first + c]."""
    target[to : to + MOST_SAMPLES] = source[first : first + MOST_SAMPLES]


def add_samples(
    start: np.ndarray,
    at: int,
    each: bool,
    scale: float,
    source: np.ndarray,
    first: int,
    out: np.ndarray,
    to: int,
) -> None:
    """out[to + c] = start[at + c] + scale · source[first + c]; unless ``each``, start[at] for all samples."""
    begin = start[at : at + MOST_SAMPLES] if each else start[at]
    out[to : to + MOST_SAMPLES] = begin + scale * source[first : first + MOST_SAMPLES]


def transpose_samples(tiles: np.ndarray, first: int) -> None:
    """Sums of a panel, (``MOST_SAMPLES``, R) from ``first`` on, become (R, ``MOST_SAMPLES``)."""
    tile = tiles[first : first + MOST_SAMPLES * lanes(tiles.dtype)]
    tile[:] = tile.reshape(MOST_SAMPLES, -1).T.reshape(-1)


@overload(copy_samples)
def _copy_samples(source, first, target, to):
    return lambda source, first, target, to: _copy(source, first, target, to)


@overload(add_samples)
def _add_samples(start, at, each, scale, source, first, out, to):
    def call(start, at, each, scale, source, first, out, to):
        _add(start, at, each, scale, source, first, out, to)

    return call


@overload(transpose_samples)
def _transpose_samples(tiles, first):
    return lambda tiles, first: _transpose(tiles, first)


@intrinsic
def _copy(typing, source, first, target, to):
    def generate(context, builder, signature, arguments):
        vector = ir.VectorType(context.get_data_type(source.dtype), MOST_SAMPLES)
        read, written = (
            _place(context, builder, source, arguments[i], arguments[i + 1], vector) for i in (0, 2)
        )
        builder.store(builder.load(read, align=_align(source)), written, align=_align(target))
        return context.get_dummy_value()

    return types.void(source, types.int64, target, types.int64), generate


@intrinsic
def _add(typing, start, at, each, scale, source, first, out, to):
    def generate(context, builder, signature, arguments):
        vector = ir.VectorType(context.get_data_type(out.dtype), MOST_SAMPLES)
        begin, read, written = (
            _place(context, builder, typ, arguments[i], arguments[i + 1], vector)
            for typ, i in ((start, 0), (source, 4), (out, 6))
        )
        total = zero(builder, vector)
        with builder.if_else(arguments[2]) as (one_for_each, one_for_all):
            with one_for_each:
                builder.store(builder.load(begin, align=_align(start)), total)
            with one_for_all:
                bias = builder.load(builder.bitcast(begin, vector.element.as_pointer()))
                builder.store(spread(builder, bias, vector), total)
        x = builder.load(read, align=_align(source))
        add_product(builder, total, spread(builder, arguments[3], vector), x)
        builder.store(builder.load(total), written, align=_align(out))
        return context.get_dummy_value()

    place = types.int64
    return types.void(start, place, types.boolean, out.dtype, source, place, out, place), generate


@intrinsic
def _transpose(typing, tiles, first):
    def generate(context, builder, signature, arguments):
        itemsize = _align(tiles)
        vector = vector_of(context, tiles)
        start = _place(context, builder, tiles, arguments[0], arguments[1], vector)
        places = [builder.gep(start, [integer(c)]) for c in range(MOST_SAMPLES)]
        rows = [builder.load(place, align=itemsize) for place in places]
        # As cards: each half of the vectors is shuffled into the other until one number follows another's.
        for _ in range(MOST_SAMPLES.bit_length() - 1):
            half = MOST_SAMPLES // 2
            pairs = zip(rows[:half], rows[half:], strict=True)
            rows = [part for pair in pairs for part in _interleave(builder, *pair)]
        for row, place in zip(rows, places, strict=True):
            builder.store(row, place, align=itemsize)
        return context.get_dummy_value()

    return types.void(tiles, types.int64), generate


def _interleave(builder, left, right):
    """left[0], right[0], left[1], right[1], ..., in two vectors."""
    count = left.type.count
    order = [lane + side for lane in range(count) for side in (0, count)]
    masks = (
        ir.Constant(ir.VectorType(ir.IntType(32), count), part) for part in (order[:count], order[count:])
    )
    return [builder.shuffle_vector(left, right, mask) for mask in masks]


def _place(context, builder, typ, array, index, vector):
    return vector_at(builder, cgutils.create_struct_proxy(typ)(context, builder, array).data, index, vector)


def _align(typ) -> int:
    return typ.dtype.bitwidth // 8
