"""The innermost loop of a dense product: a few panels of rows times a few samples, in registers.

A *panel* is as many rows of W as numbers fit into a vector, stored column after column: (n, R).  A vector of
weights is loaded once, expanded to the precision of the sums if it is stored in fewer bits, and meets
``width`` samples.  With one sample the loop is as fast as the weights come from memory, in whatever
precision they are stored; with eight it is as fast as the processor multiplies.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload, register_jitable

from .vectors import HAS_MANY_REGISTERS, VECTOR_BYTES, add_product, fetch, integer, spread, vector_at, zero

# Samples at a time, at most: in one of many slabs, and in a single one.
MOST_SAMPLES = 8 if HAS_MANY_REGISTERS else 4
WIDEST = MOST_SAMPLES * 3 // 2
# Panels at a time: 24 sums fit into 32 registers, 12 into 16; one sample needs more, to hide the latency of
# adding.
VECTOR_PANELS, BATCH_PANELS, WIDEST_PANELS = 4, 3, 2


@register_jitable
def panels_for(width: int) -> int:
    """Panels at a time, at most, for so many samples."""
    if width == 1:
        return VECTOR_PANELS
    return BATCH_PANELS if width <= MOST_SAMPLES else WIDEST_PANELS


@register_jitable
def width_for(samples: int) -> int:
    """``samples``, at most ``WIDEST``, rounded up to what there is a loop for."""
    if samples >= MOST_SAMPLES:
        return MOST_SAMPLES if samples == MOST_SAMPLES else WIDEST
    width = 1
    while width < samples:
        width *= 2
    return width


# (panels, samples), in the order in which they are tried.
_SHAPES = [
    (panels, width)
    for width in sorted({width_for(samples) for samples in range(1, WIDEST + 1)}, reverse=True)
    for panels in range(panels_for(width), 0, -1)
]

# How weights are stored.  Those of 16 bits are bit patterns: bfloat16 the upper half of a float32.
BFLOAT16, FLOAT16, INT8 = np.dtype(np.uint16), np.dtype(np.int16), np.dtype(np.int8)


def multiply_tile(
    count: int,
    width: int,
    panels: np.ndarray,
    first: int,
    begin: int,
    end: int,
    slabs: np.ndarray,
    slab: int,
    tiles: np.ndarray,
    tile: int,
    add: bool,
    ahead: int,
) -> None:
    """tile[p, b] (+)= Σ_k panels[first + p, k] · slab[k, b], k from ``begin`` to ``end``.

    Args:
        count: panels, 1 to ``panels_for(width)``.
        width: samples, as of ``width_for``.
        panels: (panels, n, R), real numbers, ``BFLOAT16``, ``FLOAT16`` or ``INT8``.
        first: panel.
        begin, end: of the inputs.
        slabs: one-dimensional; the samples are (n, width) from ``slab`` on.
        slab: see ``slabs``.
        tiles: one-dimensional; the tile is (count, width, R) from ``tile`` on.
        tile: see ``tiles``.
        add: to what is in the tile; else it is overwritten.
        ahead: numbers from a weight to one that is needed later, to be fetched; 0: none is.
    """
    n, lanes = panels.shape[1:]
    W = _expanded(panels[first : first + count, begin:end])
    x = slabs[slab + begin * width : slab + end * width].reshape(end - begin, width)
    out = tiles[tile : tile + count * width * lanes].reshape(count, width, lanes)
    out[...] = np.einsum("pkr,kb->pbr", W, x) + (out if add else 0)


def _expanded(weights: np.ndarray) -> np.ndarray:
    if weights.dtype == BFLOAT16:
        return (weights.astype(np.uint32) << 16).view(np.float32)
    if weights.dtype == FLOAT16:
        return weights.view(np.float16).astype(np.float32)
    return weights


@overload(multiply_tile)
def _multiply_tile(count, width, panels, first, begin, end, slabs, slab, tiles, tile, add, ahead):
    def call(count, width, panels, first, begin, end, slabs, slab, tiles, tile, add, ahead):
        _tile(count, width, panels, first, begin, end, slabs, slab, tiles, tile, add, ahead)

    return call


@intrinsic
def _tile(typing, count, width, panels, first, begin, end, slabs, slab, tiles, tile, add, ahead):
    given = count, width, panels, first, begin, end, slabs, slab, tiles, tile, add, ahead

    def generate(context, builder, signature, arguments):
        add, ahead = arguments[10:]
        places = {
            "panels": cgutils.create_struct_proxy(panels)(context, builder, arguments[2]),
            "slabs": builder.gep(_data(context, builder, slabs, arguments[6]), [arguments[7]]),
            "tiles": builder.gep(_data(context, builder, tiles, arguments[8]), [arguments[9]]),
        }
        for shape in _SHAPES:
            wanted = [
                builder.icmp_signed("==", asked, ir.Constant(asked.type, size))
                for asked, size in zip(arguments[:2], shape, strict=True)
            ]
            with builder.if_then(builder.and_(*wanted)):
                emit = partial(_emit, context, builder, shape, panels.dtype, tiles.dtype, *arguments[3:6])
                with builder.if_else(builder.icmp_signed("!=", ahead, integer(0))) as (far, near):
                    with far:
                        emit(add, ahead, **places)
                    with near:
                        emit(add, None, **places)
        return context.get_dummy_value()

    # Constants are taken as any other numbers.
    general = {types.Boolean: types.boolean, types.Integer: types.int64}
    taken = [next((general[kind] for kind in general if isinstance(typ, kind)), typ) for typ in given]
    return types.void(*taken), generate


def _data(context, builder, typ, value):
    return cgutils.create_struct_proxy(typ)(context, builder, value).data


def _emit(context, builder, shape, stored, real, first, begin, end, add, ahead, panels, slabs, tiles) -> None:
    """The loop over the inputs for a tile of one shape; ``ahead`` None: nothing is fetched."""
    count, width = shape
    itemsize = real.bitwidth // 8
    vector = ir.VectorType(context.get_data_type(real), VECTOR_BYTES // itemsize)
    packed = ir.VectorType(context.get_data_type(stored), vector.count)
    sums = [zero(builder, vector) for _ in range(count * width)]
    ends = [vector_at(builder, tiles, integer(i * vector.count), vector) for i in range(len(sums))]
    with builder.if_then(add):
        for total, place in zip(sums, ends, strict=True):
            builder.store(builder.load(place, align=itemsize), total)

    size = builder.mul(builder.extract_value(panels.shape, 1), integer(vector.count))
    rows = [
        builder.gep(panels.data, [builder.mul(builder.add(first, integer(p)), size)]) for p in range(count)
    ]
    with cgutils.for_range_slice(builder, begin, end, integer(1), inc=True) as (k, _):
        column = builder.mul(k, integer(vector.count))
        places = [vector_at(builder, row, column, packed) for row in rows]
        for row in rows if ahead is not None else ():
            fetch(builder, row, builder.add(column, ahead), width != MOST_SAMPLES)
        loaded = [builder.load(place, align=stored.bitwidth // 8) for place in places]
        weights = [_expand(builder, each, stored, vector) for each in loaded]
        samples = builder.gep(slabs, [builder.mul(k, integer(width))])
        for b in range(width):
            x = spread(builder, builder.load(builder.gep(samples, [integer(b)])), vector)
            for p in range(count):
                add_product(builder, sums[p * width + b], weights[p], x)
    for total, place in zip(sums, ends, strict=True):
        builder.store(builder.load(total), place, align=itemsize)


def _expand(builder, weights, stored, vector):
    """A vector of stored weights as numbers of the sums' precision."""
    if isinstance(stored, types.Float):
        return weights
    if stored == types.uint16:
        wide = ir.VectorType(ir.IntType(32), vector.count)
        bits = builder.shl(builder.zext(weights, wide), ir.Constant(wide, [16] * vector.count))
        numbers = builder.bitcast(bits, ir.VectorType(ir.FloatType(), vector.count))
    elif stored == types.int16:
        numbers = builder.bitcast(weights, ir.VectorType(ir.HalfType(), vector.count))
    else:
        return builder.sitofp(weights, vector)
    return numbers if numbers.type == vector else builder.fpext(numbers, vector)
