"""The innermost loop of a convolution: a few neurons times a few vectors of positions, in registers."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.core.types import void
from numba.extending import overload

from .intrinsics import intrinsic
from .vectors import (
    HAS_MANY_REGISTERS,
    VECTOR_BYTES,
    add_product,
    integer,
    lanes,
    spread,
    vector_at,
    zero,
)

# Neurons and vectors at a time: 8 · 3 sums fit into 32 registers, 4 · 3 into 16.
PANEL_NEURONS = 8 if HAS_MANY_REGISTERS else 4
PANEL_VECTORS = 3


def multiply_panel(
    vectors: int, weights: np.ndarray, maps: np.ndarray, offsets: np.ndarray, position: int, out: np.ndarray
) -> None:
    """out[r, t] = Σ_k weights[k, r] · maps[offsets[k] + t], t from ``position``, for 1 to 3 vectors of t.

    Args:
        vectors: how many.
        weights: (K, ``PANEL_NEURONS``).
        maps: one-dimensional.
        offsets: (K,) int64.
        position: of the first t.
        out: (``PANEL_NEURONS``, at least the last t).
    """
    columns = slice(position, position + vectors * lanes(maps.dtype))
    out[:, columns] = 0
    for k in range(len(weights)):
        seen = maps[offsets[k] + columns.start : offsets[k] + columns.stop]
        out[:, columns] += weights[k][:, np.newaxis] * seen


@overload(multiply_panel)
def _multiply_panel(vectors, weights, maps, offsets, position, out):
    def call(vectors, weights, maps, offsets, position, out):
        if vectors == 1:
            _one(weights, maps, offsets, position, out)
        elif vectors == 2:
            _two(weights, maps, offsets, position, out)
        else:
            _three(weights, maps, offsets, position, out)

    return call


def _panel(vectors: int):
    @intrinsic
    def panel(typing, weights, maps, offsets, position, out):
        def generate(context, builder, signature, arguments):
            arrays = [
                cgutils.create_struct_proxy(typ)(context, builder, value) if index != 3 else value
                for index, (typ, value) in enumerate(zip(signature.args, arguments, strict=True))
            ]
            itemsize = maps.dtype.bitwidth // 8
            vector = ir.VectorType(context.get_data_type(maps.dtype), VECTOR_BYTES // itemsize)
            _emit(builder, vectors, vector, itemsize, arrays)
            return context.get_dummy_value()

        return void(weights, maps, offsets, position, out), generate

    return panel


def _emit(builder, vectors, vector, itemsize, arrays) -> None:
    """The loop over k, for ``vectors`` vectors; ``arrays`` as the panel takes them."""
    weights, maps, offsets, position, out = arrays
    sums = [[zero(builder, vector) for _ in range(vectors)] for _ in range(PANEL_NEURONS)]
    base = builder.gep(maps.data, [position])
    count = builder.extract_value(weights.shape, 0)
    places = [integer(v * vector.count) for v in range(vectors)]
    with cgutils.for_range(builder, count) as loop:
        start = builder.gep(base, [builder.load(builder.gep(offsets.data, [loop.index]))])
        seen = [builder.load(vector_at(builder, start, place, vector), align=itemsize) for place in places]
        row = builder.gep(weights.data, [builder.mul(loop.index, integer(PANEL_NEURONS))])
        for r in range(PANEL_NEURONS):
            weight = spread(builder, builder.load(builder.gep(row, [integer(r)])), vector)
            for total, values in zip(sums[r], seen, strict=True):
                add_product(builder, total, weight, values)
    width = builder.extract_value(out.shape, 1)
    for r in range(PANEL_NEURONS):
        row = builder.gep(out.data, [builder.add(builder.mul(width, integer(r)), position)])
        for place, total in zip(places, sums[r], strict=True):
            builder.store(builder.load(total), vector_at(builder, row, place, vector), align=itemsize)


_one, _two, _three = (_panel(vectors) for vectors in (1, 2, 3))
