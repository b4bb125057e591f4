"""The innermost loop of a convolution: a few neurons times a few vectors of positions, in registers."""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from .intrinsics import intrinsic
from .vectors import (
    HAS_MANY_REGISTERS,
    accumulate,
    integer,
    itemsize_of,
    lanes,
    opened,
    spread,
    vector_at,
    vector_of,
)

# Neurons and vectors at a time: 8 · 3 sums fit into 32 registers, 4 · 3 into 16.
PANEL_NEURONS = 8 if HAS_MANY_REGISTERS else 4
PANEL_VECTORS = 3


def multiply_panel(
    vectors: int,
    weights: np.ndarray,
    maps: np.ndarray,
    offsets: np.ndarray,
    position: int,
    add: bool,
    out: np.ndarray,
    column: int,
) -> None:
    """out[r, column + t] (+)= Σ_k weights[k, r] · maps[offsets[k] + position + t], for 1 to 3 vectors of t.

    Args:
        vectors: how many.
        weights: (K, ``PANEL_NEURONS``).
        maps: one-dimensional.
        offsets: (K,) int64.
        position: of the first t.
        add: to what is in ``out``; else it is overwritten.
        out: (``PANEL_NEURONS``, at least the last column).
        column: of the first t.
    """
    count = vectors * lanes(maps.dtype)
    target = out[:, column : column + count]
    if not add:
        target[:] = 0
    for k in range(len(weights)):
        seen = maps[offsets[k] + position : offsets[k] + position + count]
        target += weights[k][:, np.newaxis] * seen


@overload(multiply_panel)
def _multiply_panel(vectors, weights, maps, offsets, position, add, out, column):
    def call(vectors, weights, maps, offsets, position, add, out, column):
        if vectors == 1:
            _one(weights, maps, offsets, position, add, out, column)
        elif vectors == 2:
            _two(weights, maps, offsets, position, add, out, column)
        else:
            _three(weights, maps, offsets, position, add, out, column)

    return call


def _panel(vectors: int):
    @intrinsic
    def panel(typing, weights, maps, offsets, position, add, out, column):
        def generate(context, builder, signature, arguments):
            parts = opened(context, builder, signature.args, arguments)
            _emit(builder, vectors, vector_of(context, maps), parts)
            return context.get_dummy_value()

        return types.void(weights, maps, offsets, types.int64, types.boolean, out, types.int64), generate

    return panel


def _emit(builder, vectors, vector, arguments) -> None:
    """The loop over k, for ``vectors`` vectors; ``arguments`` as the panel takes them."""
    weights, maps, offsets, position, add, out, column = arguments
    itemsize = itemsize_of(vector)
    places = [integer(v * vector.count) for v in range(vectors)]
    width = builder.extract_value(out.shape, 1)
    ends = []
    for r in range(PANEL_NEURONS):
        row = builder.gep(out.data, [builder.add(builder.mul(width, integer(r)), column)])
        ends += [vector_at(builder, row, place, vector) for place in places]
    base = builder.gep(maps.data, [position])

    def products(k):
        start = builder.gep(base, [builder.load(builder.gep(offsets.data, [k]))])
        seen = [builder.load(vector_at(builder, start, place, vector), align=itemsize) for place in places]
        row = builder.gep(weights.data, [builder.mul(k, integer(PANEL_NEURONS))])
        for r in range(PANEL_NEURONS):
            weight = spread(builder, builder.load(builder.gep(row, [integer(r)])), vector)
            for v, values in enumerate(seen):
                yield r * vectors + v, weight, values

    accumulate(builder, ends, add, (integer(0), builder.extract_value(weights.shape, 0)), products)


_one, _two, _three = (_panel(vectors) for vectors in (1, 2, 3))
