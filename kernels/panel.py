"""The innermost loop of a convolution: a few neurons times a few vectors of positions, in registers.

Sums that stay in registers need vectors that the compiler would not find by itself, so that this
loop is written in its intermediate language.  Everything around it is an ordinary kernel.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numba.types import void

_AVX512 = get_host_cpu_features().get("avx512f", False)
_AVX2 = get_host_cpu_features().get("avx2", False)
_VECTOR_BYTES = 64 if _AVX512 else 32 if _AVX2 else 16

# Neurons and vectors at a time: 8 · 3 sums fit into 32 registers, 4 · 3 into the 16 of AVX2 and SSE.
PANEL_NEURONS = 4 if get_host_cpu_features().get("sse2", False) and not _AVX512 else 8
PANEL_VECTORS = 3

_FUSED = ("contract",)


def lanes(dtype: np.dtype) -> int:
    """Numbers of this type in a vector."""
    return _VECTOR_BYTES // dtype.itemsize


@overload(lanes, inline="always")
def _lanes(dtype):
    count = _VECTOR_BYTES // (dtype.dtype.bitwidth // 8)
    return lambda dtype: count


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
            _emit(builder, vectors, context.get_data_type(maps.dtype), maps.dtype.bitwidth // 8, *arrays)
            return context.get_dummy_value()

        return void(weights, maps, offsets, position, out), generate

    return panel


def _emit(builder, vectors, number, itemsize, weights, maps, offsets, position, out) -> None:
    """The loop over k, its sums in variables that the compiler keeps in registers."""
    vector = ir.VectorType(number, _VECTOR_BYTES // itemsize)
    sums = [[cgutils.alloca_once(builder, vector) for _ in range(vectors)] for _ in range(PANEL_NEURONS)]
    for total in sum(sums, []):
        builder.store(ir.Constant(vector, None), total)
    base = builder.gep(maps.data, [position])
    count = builder.extract_value(weights.shape, 0)
    with cgutils.for_range(builder, count) as loop:
        start = builder.gep(base, [builder.load(builder.gep(offsets.data, [loop.index]))])
        seen = [builder.load(_at(builder, start, v, vector), align=itemsize) for v in range(vectors)]
        row = builder.gep(weights.data, [builder.mul(loop.index, _int(PANEL_NEURONS))])
        for r in range(PANEL_NEURONS):
            weight = _spread(builder, builder.load(builder.gep(row, [_int(r)])), vector)
            for total, values in zip(sums[r], seen, strict=True):
                product = builder.fmul(weight, values, flags=_FUSED)
                builder.store(builder.fadd(builder.load(total), product, flags=_FUSED), total)
    width = builder.extract_value(out.shape, 1)
    for r in range(PANEL_NEURONS):
        row = builder.gep(out.data, [builder.add(builder.mul(width, _int(r)), position)])
        for v, total in enumerate(sums[r]):
            builder.store(builder.load(total), _at(builder, row, v, vector), align=itemsize)


def _int(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), value)


def _at(builder, start, v, vector):
    """The address of vector number v from ``start``."""
    return builder.bitcast(builder.gep(start, [_int(v * vector.count)]), vector.as_pointer())


def _spread(builder, value, vector):
    """A vector of equal numbers."""
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
    return builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), zeros)


_one, _two, _three = (_panel(vectors) for vectors in (1, 2, 3))
