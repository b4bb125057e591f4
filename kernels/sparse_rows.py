"""The innermost loop of a sparse product: one row of W times a few vectors of samples, in registers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from .vectors import (
    VECTOR_BYTES,
    add_product,
    first_lanes,
    integer,
    lanes,
    load_lanes,
    spread,
    store_lanes,
    vector_at,
    zeros,
)

# Vectors of samples at a time, at most.
ROW_VECTORS = 4


def add_columns(
    vectors: int,
    data: np.ndarray,
    indices: np.ndarray,
    begin: int,
    end: int,
    X: np.ndarray,
    column: int,
    out: np.ndarray,
    row: int,
) -> None:
    """out[row, columns] += Σ_k data[k] · X[indices[k], columns], k from ``begin`` to ``end``.

    Args:
        vectors: of columns, 1 to ``ROW_VECTORS``; the last one ends with X at the latest.
        data, indices: (nonzeros,), the indices unsigned.
        begin, end: of the row.
        X: (n, batch).
        column: the first.
        out: (m, batch).
        row: of out.
    """
    columns = slice(column, column + vectors * lanes(out.dtype))
    out[row, columns] += data[begin:end] @ X[indices[begin:end], columns]


@overload(add_columns)
def _add_columns(vectors, data, indices, begin, end, X, column, out, row):
    def call(vectors, data, indices, begin, end, X, column, out, row):
        _add(vectors, data, indices, begin, end, X, column, out, row)

    return call


@intrinsic
def _add(typing, vectors, data, indices, begin, end, X, column, out, row):
    def generate(context, builder, signature, arguments):
        arrays = {
            name: cgutils.create_struct_proxy(typ)(context, builder, arguments[place])
            for place, name, typ in ((1, "data", data), (2, "indices", indices), (5, "X", X), (7, "out", out))
        }
        begin, end, column, row = (arguments[place] for place in (3, 4, 6, 8))
        real, lane_count = context.get_data_type(X.dtype), VECTOR_BYTES * 8 // X.dtype.bitwidth
        left = builder.sub(builder.extract_value(arrays["X"].shape, 1), column)
        for count in range(2, ROW_VECTORS + 1):
            with builder.if_then(builder.icmp_signed("==", arguments[0], integer(count))):
                vector = ir.VectorType(real, lane_count)
                _emit(builder, count, vector, left, begin, end, column, row, **arrays)
        # A few columns in a vector no wider than needed: fewer of its loads cross a cache line.
        with builder.if_then(builder.icmp_signed("==", arguments[0], integer(1))):
            widths = lane_count, lane_count // 2, lane_count // 4, 0
            for width, above in pairwise(widths):
                fits = builder.icmp_signed("<=", left, integer(width)) if width < lane_count else None
                needed = builder.icmp_signed(">", left, integer(above))
                with builder.if_then(builder.and_(fits, needed) if fits else needed):
                    _emit(builder, 1, ir.VectorType(real, width), left, begin, end, column, row, **arrays)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(whole, data, indices, whole, whole, X, whole, out, whole), generate


def _emit(builder, vectors, vector, left, begin, end, column, row, data, indices, X, out) -> None:
    """The loop over the non-zeros of a row for some vectors of columns, of which ``left`` are left."""
    width = builder.extract_value(X.shape, 1)
    # Non-zeros at a time: their sums, added up in the end, hide the latency of adding.
    together = ROW_VECTORS // vectors
    sums = zeros(builder, vector, together * vectors)
    last = builder.sub(left, integer((vectors - 1) * vector.count))
    masks = [None] * (vectors - 1) + [first_lanes(builder, last, vector)]

    def add(k, totals):
        weight = spread(builder, builder.load(builder.gep(data.data, [k])), vector)
        index = builder.load(builder.gep(indices.data, [k]))
        if index.type != ir.IntType(64):
            index = builder.zext(index, ir.IntType(64))
        samples = builder.gep(X.data, [builder.add(builder.mul(index, width), column)])
        for v, total in enumerate(totals):
            place = vector_at(builder, samples, integer(v * vector.count), vector)
            add_product(builder, total, weight, load_lanes(builder, place, masks[v]))

    whole = builder.sub(end, builder.srem(builder.sub(end, begin), integer(together)))
    with cgutils.for_range_slice(builder, begin, whole, integer(together), inc=True) as (k, _):
        for each in range(together):
            add(builder.add(k, integer(each)), sums[each * vectors : (each + 1) * vectors])
    with cgutils.for_range_slice(builder, whole, end, integer(1), inc=True) as (k, _):
        add(k, sums[:vectors])

    target = builder.gep(out.data, [builder.add(builder.mul(row, width), column)])
    for v, mask in enumerate(masks):
        place = vector_at(builder, target, integer(v * vector.count), vector)
        total = load_lanes(builder, place, mask)
        for each in range(together):
            total = builder.fadd(total, builder.load(sums[each * vectors + v]))
        store_lanes(builder, total, place, mask)
