"""The innermost loop of a sparse product: one row of W times a few vectors of samples, in registers."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from .vectors import VECTOR_BYTES, add_product, integer, lanes, spread, vector_at

# Vectors of samples at a time: their sums hide the latency of adding.
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
        vectors: 1 or ``ROW_VECTORS`` vectors of columns.
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
        if vectors == 1:
            _one(data, indices, begin, end, X, column, out, row)
        else:
            _several(data, indices, begin, end, X, column, out, row)

    return call


def _row(vectors: int):
    @intrinsic
    def multiply(typing, data, indices, begin, end, X, column, out, row):
        def generate(context, builder, signature, arguments):
            data_, indices_, X_, out_ = (
                cgutils.create_struct_proxy(typ)(context, builder, arguments[place])
                for place, typ in ((0, data), (1, indices), (4, X), (6, out))
            )
            begin_, end_, column_, row_ = (arguments[place] for place in (2, 3, 5, 7))
            itemsize = X.dtype.bitwidth // 8
            vector = ir.VectorType(context.get_data_type(X.dtype), VECTOR_BYTES // itemsize)
            width = builder.extract_value(X_.shape, 1)
            target = builder.gep(out_.data, [builder.add(builder.mul(row_, width), column_)])
            places = [vector_at(builder, target, integer(v * vector.count), vector) for v in range(vectors)]
            sums = [cgutils.alloca_once(builder, vector) for _ in places]
            for total, place in zip(sums, places, strict=True):
                builder.store(builder.load(place, align=itemsize), total)
            with cgutils.for_range_slice(builder, begin_, end_, integer(1), inc=True) as (k, _):
                weight = spread(builder, builder.load(builder.gep(data_.data, [k])), vector)
                index = builder.load(builder.gep(indices_.data, [k]))
                if index.type != ir.IntType(64):
                    index = builder.zext(index, ir.IntType(64))
                samples = builder.gep(X_.data, [builder.add(builder.mul(index, width), column_)])
                for v, total in enumerate(sums):
                    x = builder.load(
                        vector_at(builder, samples, integer(v * vector.count), vector), align=itemsize
                    )
                    add_product(builder, total, weight, x)
            for total, place in zip(sums, places, strict=True):
                builder.store(builder.load(total), place, align=itemsize)
            return context.get_dummy_value()

        integers = types.int64
        return types.void(data, indices, integers, integers, X, integers, out, integers), generate

    return multiply


_one, _several = _row(1), _row(ROW_VECTORS)
