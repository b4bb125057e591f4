"""Products of one vector with rows that lie far apart: several at a time, each read once as a stream.

Rows may be stored in fewer bits (see ``stored``); multiples of a scale stay without it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import overload

from .intrinsics import intrinsic
from .stored import expand, expanded
from .vectors import (
    add_product,
    first_lanes,
    integer,
    load_lanes,
    opened,
    rolled,
    spread,
    store_lanes,
    sum_of_lanes,
    variable,
    vector_at,
    vector_of,
    zero,
)

# Rows at a time.
ROWS = 8


def add_rows(
    source: np.ndarray, start: int, stride: int, count: int, weights: np.ndarray, out: np.ndarray
) -> None:
    """out[t] += Σ_r weights[r] · source[start + r · stride + t] for t below ``count``.

    Args:
        source, out: one-dimensional; ``source`` real or stored.
        start: of the first row.
        stride: from one row to the next.
        count: numbers of a row.
        weights: (rows,).
    """
    out[:count] += weights @ _rows(source, start, stride, count, len(weights))


def dot_rows(
    source: np.ndarray, start: int, stride: int, count: int, x: np.ndarray, lane: np.ndarray, out: np.ndarray
) -> None:
    """out[r] = Σ_t x[t] · lane[t mod lanes] · source[start + r · stride + t], for t below ``count``.

    Args:
        source, start, stride, count: as of ``add_rows``.
        x: whole vectors, at least ``count`` numbers.
        lane: a factor of each lane.
        out: (rows,).
    """
    factors = np.tile(lane, -(-count // lane.size))[:count]
    out[:] = _rows(source, start, stride, count, len(out)) @ (x[:count] * factors)


def _rows(source: np.ndarray, start: int, stride: int, count: int, rows: int) -> np.ndarray:
    return expanded(source[start + np.arange(rows)[:, None] * stride + np.arange(count)])


@overload(add_rows)
def _add_rows(source, start, stride, count, weights, out):
    return lambda source, start, stride, count, weights, out: _add(source, start, stride, count, weights, out)


@overload(dot_rows)
def _dot_rows(source, start, stride, count, x, lane, out):
    return lambda source, start, stride, count, x, lane, out: _dot(source, start, stride, count, x, lane, out)


@intrinsic
def _add(typing, source, start, stride, count, weights, out):
    def generate(context, builder, signature, arguments):
        parts = opened(context, builder, signature.args, arguments)
        source, start, stride, count, weights, out = parts
        vector, stored = vector_of(context, signature.args[-1]), signature.args[0].dtype

        def emit(first, rows: int) -> None:
            loaded = (
                builder.load(builder.gep(weights.data, [builder.add(first, integer(r))])) for r in range(rows)
            )
            factors = [spread(builder, each, vector) for each in loaded]
            begin = builder.gep(source.data, [builder.add(start, builder.mul(first, stride))])

            def add(t, mask) -> None:
                place = vector_at(builder, out.data, t, vector)
                total = variable(builder, load_lanes(builder, place, mask))
                for r, factor in enumerate(factors):
                    row = builder.gep(begin, [builder.mul(stride, integer(r))])
                    add_product(builder, total, factor, _numbers(builder, row, t, mask, stored, vector))
                store_lanes(builder, builder.load(total), place, mask)

            _each_vector(builder, count, vector, add)

        _each_group(builder, builder.extract_value(weights.shape, 0), emit)
        return context.get_dummy_value()

    whole = (types.int64,) * 3
    return types.void(source, *whole, weights, out), generate


@intrinsic
def _dot(typing, source, start, stride, count, x, lane, out):
    def generate(context, builder, signature, arguments):
        parts = opened(context, builder, signature.args, arguments)
        source, start, stride, count, x, lane, out = parts
        vector, stored = vector_of(context, signature.args[-1]), signature.args[0].dtype

        def emit(first, rows: int) -> None:
            totals = [zero(builder, vector) for _ in range(rows)]
            begin = builder.gep(source.data, [builder.add(start, builder.mul(first, stride))])

            def add(t, mask) -> None:
                factor = load_lanes(builder, vector_at(builder, x.data, t, vector), None)
                for r, total in enumerate(totals):
                    row = builder.gep(begin, [builder.mul(stride, integer(r))])
                    add_product(builder, total, factor, _numbers(builder, row, t, mask, stored, vector))

            _each_vector(builder, count, vector, add)
            factor = load_lanes(builder, vector_at(builder, lane.data, integer(0), vector), None)
            for r, total in enumerate(totals):
                terms = builder.fmul(builder.load(total), factor)
                builder.store(
                    sum_of_lanes(builder, terms), builder.gep(out.data, [builder.add(first, integer(r))])
                )

        _each_group(builder, builder.extract_value(out.shape, 0), emit)
        return context.get_dummy_value()

    whole = (types.int64,) * 3
    return types.void(source, *whole, x, lane, out), generate


def _each_group(builder, rows, emit: Callable) -> None:
    """``emit(first, count)`` for groups of ``ROWS`` rows, then for single ones."""
    groups = builder.mul(builder.sdiv(rows, integer(ROWS)), integer(ROWS))
    with rolled(builder, groups, ROWS) as first:
        emit(first, ROWS)
    with rolled(builder, builder.sub(rows, groups)) as number:
        emit(builder.add(groups, number), 1)


def _each_vector(builder, count, vector, add: Callable) -> None:
    """``add(t, mask)`` for whole vectors of ``count`` numbers, without a mask, then for the rest, if any."""
    whole = builder.mul(builder.sdiv(count, integer(vector.count)), integer(vector.count))
    with rolled(builder, whole, vector.count) as t:
        add(t, None)
    left = builder.sub(count, whole)
    with builder.if_then(builder.icmp_signed(">", left, integer(0))):
        add(whole, first_lanes(builder, left, vector))


def _numbers(builder, row, t, mask, stored, vector):
    """The numbers of a row from number ``t`` on, as a vector."""
    codes = ir.VectorType(row.type.pointee, vector.count)
    return expand(builder, load_lanes(builder, vector_at(builder, row, t, codes), mask), stored, vector)
