"""The innermost loop of a convolution of narrow maps: a few vectors of neurons, a few positions of a row.

Where ``panel`` has a vector of positions, which are seldom as many as a narrow row has, a vector here holds
neurons of the target, and each meets the same numbers of the source.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

from .intrinsics import intrinsic
from .tiles import BATCH_PANELS, MOST_SAMPLES
from .vectors import accumulate, integer, itemsize_of, lanes, opened, spread, vector_at, vector_of

# Positions at a time: rows of 7, 14, 28 and 56 come in sevens, others in eights.
WIDTHS = tuple(width for width in (8, 7, 4, 1) if width <= MOST_SAMPLES)
_SHAPES = [(panels, width) for width in WIDTHS for panels in range(BATCH_PANELS, 0, -1)]


@register_jitable
def width_for_row(positions: int) -> int:
    """Positions to take at a time so that the least are computed for nothing in a row of so many."""
    best, fewest = 1, 1 << 62
    for width in WIDTHS:
        # One position more stands for what a tile costs.
        cost = -(-positions // width) * (width + 1)
        if cost < fewest:
            best, fewest = width, cost
    return best


def multiply_channels(
    shape: tuple[int, int],
    weights: np.ndarray,
    maps: np.ndarray,
    offsets: np.ndarray,
    position: int,
    add: bool,
    tiles: np.ndarray,
    tile: int,
) -> None:
    """tile[p, c] (+)= Σ_k weights[p, k] · maps[offsets[k] + position + c], a vector of neurons each.

    Args:
        shape: panels and positions, p and c: 1 to ``BATCH_PANELS``, one of ``WIDTHS``.
        weights: (at least p, K, R), R the numbers of a vector, rows of R without gaps.
        maps: one-dimensional.
        offsets: (K,) int64.
        position: of the first c.
        add: to what is in the tile; else it is overwritten.
        tiles: one-dimensional.
        tile: number in the tiles from which the tile, (panels, ``MOST_SAMPLES``, R), is.
    """
    panels, width = shape
    lane = lanes(maps.dtype)
    out = tiles[tile : tile + panels * MOST_SAMPLES * lane].reshape(panels, MOST_SAMPLES, lane)[:, :width]
    seen = maps[np.asarray(offsets)[:, np.newaxis] + position + np.arange(width)]
    out[...] = np.einsum("pkr,kc->pcr", weights[:panels], seen) + (out if add else 0)


@overload(multiply_channels)
def _multiply_channels(shape, weights, maps, offsets, position, add, tiles, tile):
    def call(shape, weights, maps, offsets, position, add, tiles, tile):
        _multiply(shape, weights, maps, offsets, position, add, tiles, tile)

    return call


@intrinsic
def _multiply(typing, shape, weights, maps, offsets, position, add, tiles, tile):
    def generate(context, builder, signature, arguments):
        actual = [
            context.cast(builder, builder.extract_value(arguments[0], i), shape.types[i], types.int64)
            for i in range(2)
        ]
        parts, vector = opened(context, builder, signature.args, arguments), vector_of(context, maps)
        for wanted in _SHAPES:
            equal = [builder.icmp_signed("==", a, integer(b)) for a, b in zip(actual, wanted, strict=True)]
            with builder.if_then(builder.and_(*equal)):
                _emit(builder, wanted, vector, parts)
        return context.get_dummy_value()

    whole, flag = types.int64, types.boolean
    return types.void(shape, weights, maps, offsets, whole, flag, tiles, whole), generate


def _emit(builder, shape, vector, arguments) -> None:
    """The loop over k for tiles of one shape; ``arguments`` as ``multiply_channels`` takes them."""
    _, weights, maps, offsets, position, add, tiles, tile = arguments
    (panels, width), itemsize = shape, itemsize_of(vector)
    first = builder.gep(tiles.data, [tile])
    places = (integer((p * MOST_SAMPLES + c) * vector.count) for p in range(panels) for c in range(width))
    ends = [vector_at(builder, first, place, vector) for place in places]
    base = builder.gep(maps.data, [position])
    stride = builder.sdiv(builder.extract_value(weights.strides, 0), integer(itemsize))
    rows = [builder.gep(weights.data, [builder.mul(stride, integer(p))]) for p in range(panels)]

    def products(k):
        column = builder.mul(k, integer(vector.count))
        loaded = [builder.load(vector_at(builder, row, column, vector), align=itemsize) for row in rows]
        seen = builder.gep(base, [builder.load(builder.gep(offsets.data, [k]))])
        for c in range(width):
            x = spread(builder, builder.load(builder.gep(seen, [integer(c)])), vector)
            for p in range(panels):
                yield p * width + c, loaded[p], x

    accumulate(builder, ends, add, (integer(0), builder.extract_value(weights.shape, 1)), products)
