"""Rows of maps, a vector at a time: one as a window sees it, with its border, and one added to another."""

from __future__ import annotations

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import overload

from .intrinsics import intrinsic
from .vectors import (
    every_second,
    first_lanes,
    integer,
    lanes_between,
    load_lanes,
    opened,
    spread,
    store_lanes,
    vector_at,
    vector_of,
)


def copy_row(
    source: np.ndarray,
    start: int,
    width: int,
    column: int,
    step: int,
    fill: float,
    target: np.ndarray,
    begin: int,
    count: int,
) -> None:
    """target[begin + t] = row[column + step · t] for t below ``count``, or ``fill`` beyond the row.

    Args:
        source: with the row, (width,), from its number ``start`` on.
        width: of the row; 0: all is ``fill``.
        column: that is seen first, negative before the row.
        step: 1 or 2.
        fill: of the type of the numbers.
        target: of another array, written from its number ``begin`` on.
    """
    row = source.reshape(-1)[start : start + width]
    columns = column + step * np.arange(count)
    inside = (columns >= 0) & (columns < width)
    part = target.reshape(-1)[begin : begin + count]
    part[:] = fill
    part[inside] = row[columns[inside]]


def add_row(
    left: np.ndarray, at: int, each: bool, right: np.ndarray, first: int, out: np.ndarray, to: int, count: int
) -> None:
    """out[to + t] = left[at + t] + right[first + t] for t from 0 below ``count``; ``left`` may be ``out``.

    Args:
        left, right, out: numbers in the order in which they lie, of the same type.
        each: if not so, left[at] is added to all.
    """
    count = max(count, 0)
    begin = left.reshape(-1)[at : at + (count if each else 1)]
    out.reshape(-1)[to : to + count] = begin + right.reshape(-1)[first : first + count]


@overload(copy_row)
def _copy_row(source, start, width, column, step, fill, target, begin, count):
    def call(source, start, width, column, step, fill, target, begin, count):
        if step == 1:
            _all(source, start, width, column, fill, target, begin, count)
        else:
            _every_second(source, start, width, column, fill, target, begin, count)

    return call


@overload(add_row)
def _add_row(left, at, each, right, first, out, to, count):
    def call(left, at, each, right, first, out, to, count):
        if each:
            _add_each(left, at, right, first, out, to, count)
        else:
            _add_one(left, at, right, first, out, to, count)

    return call


def _copying(step: int):
    @intrinsic
    def copy(typing, source, start, width, column, fill, target, begin, count):
        whole = (types.int64,) * 3

        def generate(context, builder, signature, arguments):
            arrays = opened(context, builder, signature.args, arguments)
            read, start, width, column, fill, written, begin, count = arrays
            vector = vector_of(context, source)
            row, result = builder.gep(read.data, [start]), builder.gep(written.data, [begin])
            border = spread(builder, fill, vector)
            stride = integer(vector.count)
            with cgutils.for_range_slice(builder, integer(0), count, stride, inc=True) as (t, _):
                seen = builder.add(column, builder.mul(t, integer(step)))
                columns = (builder.add(seen, integer(i * vector.count)) for i in range(step))
                parts = [_part(builder, row, each, width, border) for each in columns]
                values = parts[0] if step == 1 else every_second(builder, *parts)
                mask = first_lanes(builder, builder.sub(count, t), vector)
                store_lanes(builder, values, vector_at(builder, result, t, vector), mask)
            return context.get_dummy_value()

        return types.void(source, *whole, source.dtype, target, *whole[1:]), generate

    return copy


def _adding(each: bool):
    @intrinsic
    def add(typing, left, at, right, first, out, to, count):
        whole = types.int64

        def generate(context, builder, signature, arguments):
            vector = vector_of(context, signature.args[0])
            left, at, right, first, out, to, count = opened(context, builder, signature.args, arguments)
            begin, read, written = (
                builder.gep(array.data, [place]) for array, place in ((left, at), (right, first), (out, to))
            )
            bias = None if each else spread(builder, builder.load(begin), vector)
            stride = integer(vector.count)
            with cgutils.for_range_slice(builder, integer(0), count, stride, inc=True) as (t, _):
                mask = first_lanes(builder, builder.sub(count, t), vector)
                initial = load_lanes(builder, vector_at(builder, begin, t, vector), mask) if each else bias
                value = load_lanes(builder, vector_at(builder, read, t, vector), mask)
                place = vector_at(builder, written, t, vector)
                store_lanes(builder, builder.fadd(initial, value), place, mask)
            return context.get_dummy_value()

        return types.void(left, whole, right, whole, out, whole, whole), generate

    return add


def _part(builder, row, column, width, border):
    """The vector of a row from ``column`` on, with ``border`` beyond the row."""
    vector = border.type
    inside = lanes_between(builder, builder.neg(column), builder.sub(width, column), vector)
    return load_lanes(builder, vector_at(builder, row, column, vector), inside, border)


_all, _every_second = (_copying(step) for step in (1, 2))
_add_one, _add_each = (_adding(each) for each in (False, True))
