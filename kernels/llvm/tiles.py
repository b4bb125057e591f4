"""The innermost loop of a dense product: a few panels of rows times a few samples, in registers.

A *panel* is as many rows of W as numbers fit into a vector, stored column after column: (n, R).  A vector of
weights is loaded once, expanded to the precision of the sums if it is stored in fewer bits, and meets
``width`` samples; with eight the loop is as fast as the processor multiplies.  With one it is as fast as the
weights come from memory: panels are read one after the other, as a single stream, which the processor fetches
ahead by itself, and memory is slower with several.
"""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import overload, register_jitable

from .intrinsics import intrinsic
from .stored import expand, expanded
from .vectors import (
    HAS_MANY_REGISTERS,
    accumulate,
    add_product,
    fetch,
    integer,
    spread,
    vector_at,
    vector_of,
    zero,
)

# Samples at a time, at most: in one of many slabs, and in a single one.
MOST_SAMPLES = 8 if HAS_MANY_REGISTERS else 4
WIDEST = MOST_SAMPLES * 3 // 2
# Panels at a time: 24 sums fit into 32 registers, 12 into 16.  Those of one sample are in registers one after
# the other, and are only finished together.
VECTOR_PANELS, BATCH_PANELS, WIDEST_PANELS = 16, 3, 2
# Inputs of one sample at a time, a power of two, and sums, to hide the latency of adding.
VECTOR_INPUTS = VECTOR_SUMS = 8


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


# (panels, samples), of several samples, in the order in which they are tried.
_SHAPES = [
    (panels, width)
    for width in sorted({width_for(samples) for samples in range(2, WIDEST + 1)}, reverse=True)
    for panels in range(panels_for(width), 0, -1)
]


class TileWork(NamedTuple):
    """A tile and what is added up for it.

    Attributes:
        panels: how many, 1 to ``panels_for(width)``.
        width: samples, as of ``width_for``.
        first: panel.
        begin, end: of the inputs.
        slab: number in the slabs from which the samples, (n, width), are.
        tile: number in the tiles from which the tile, (panels, width, R), is.
        add: to what is in the tile; else it is overwritten.
        ahead: numbers from a weight to one that is needed later, to be fetched; 0: none is.  Of one sample
            none ever is.
        in_order: 1: the inputs of one sample are added up one by one, as those of several are; 0: in several
            sums, input k in sum k modulo ``VECTOR_SUMS``, which is faster.
    """

    panels: int
    width: int
    first: int
    begin: int
    end: int
    slab: int
    tile: int
    add: bool
    ahead: int
    in_order: int


def multiply_tile(work: TileWork, panels: np.ndarray, slabs: np.ndarray, tiles: np.ndarray) -> None:
    """tile[p, b] (+)= Σ_k panels[first + p, k] · slab[k, b], k from ``begin`` to ``end``.

    Args:
        work: see there.
        panels: (panels, n, R), real numbers or codes (see ``stored``).
        slabs, tiles: one-dimensional.
    """
    count, width, first, begin, end, slab, tile, add, _, _ = work
    lanes = panels.shape[2]
    W = expanded(panels[first : first + count, begin:end])
    x = slabs[slab + begin * width : slab + end * width].reshape(end - begin, width)
    out = tiles[tile : tile + count * width * lanes].reshape(count, width, lanes)
    out[...] = np.einsum("pkr,kb->pbr", W, x) + (out if add else 0)


@overload(multiply_tile)
def _multiply_tile(work, panels, slabs, tiles):
    return lambda work, panels, slabs, tiles: _tile(work, panels, slabs, tiles)


@intrinsic
def _tile(typing, work, panels, slabs, tiles):
    def generate(context, builder, signature, arguments):
        emitter = _TileEmitter(context, builder, signature.args, arguments)
        for in_order, sums in ((1, 1), (0, VECTOR_SUMS)):
            with builder.if_then(emitter.has(width=1, in_order=in_order)):
                emitter.emit_vector(sums)
        for shape in _SHAPES:
            with builder.if_then(emitter.has(panels=shape[0], width=shape[1])):
                far = builder.icmp_signed("!=", emitter.work["ahead"], integer(0))
                with builder.if_else(far) as (fetching, near):
                    with fetching:
                        emitter.emit(shape, fetches=True)
                    with near:
                        emitter.emit(shape, fetches=False)
        return context.get_dummy_value()

    return types.void(work, panels, slabs, tiles), generate


class _TileEmitter:
    """Writes the loops over the inputs of one call.

    Attributes:
        work: the numbers of ``TileWork``.
    """

    def __init__(self, context, builder, typs, arguments) -> None:
        work, *arrays = typs
        self.builder, self.work = builder, {}
        for index, (name, typ) in enumerate(zip(TileWork._fields, work.types, strict=True)):
            general = types.boolean if name == "add" else types.int64
            number = builder.extract_value(arguments[0], index)
            self.work[name] = context.cast(builder, number, typ, general)
        self.panels, slabs, tiles = (
            cgutils.create_struct_proxy(typ)(context, builder, value)
            for typ, value in zip(arrays, arguments[1:], strict=True)
        )
        self.slabs = builder.gep(slabs.data, [self.work["slab"]])
        self.tiles = builder.gep(tiles.data, [self.work["tile"]])
        self.stored, self.itemsize = arrays[0].dtype, arrays[2].dtype.bitwidth // 8
        self.vector = vector_of(context, arrays[2])
        self.packed = ir.VectorType(context.get_data_type(self.stored), self.vector.count)

    def has(self, **numbers: int):
        """A flag: these numbers of the work are so."""
        equal = (self.builder.icmp_signed("==", self.work[name], integer(n)) for name, n in numbers.items())
        return reduce(self.builder.and_, equal)

    def emit_vector(self, sums: int) -> None:
        """Everything for a tile of one sample, with so many sums."""
        builder, count = self.builder, integer(self.vector.count)
        (start,) = self._rows(1)
        size = builder.mul(builder.extract_value(self.panels.shape, 1), count)
        with cgutils.for_range(builder, self.work["panels"]) as panel:
            row = builder.gep(start, [builder.mul(panel.index, size)])
            end = vector_at(builder, self.tiles, builder.mul(panel.index, count), self.vector)
            self._emit_panel(row, end, [zero(builder, self.vector) for _ in range(sums)])

    def _emit_panel(self, row, end, sums) -> None:
        """The sums of a panel for one sample, which begin with zero."""
        builder, begin, behind = self.builder, self.work["begin"], self.work["end"]
        with builder.if_then(self.work["add"]):
            builder.store(builder.load(end, align=self.itemsize), sums[0])
        rest = builder.and_(builder.sub(behind, begin), integer(VECTOR_INPUTS - 1))
        last = builder.sub(behind, rest)
        with cgutils.for_range_slice(builder, begin, last, integer(VECTOR_INPUTS), inc=True) as (k, _):
            for u in range(VECTOR_INPUTS):
                self._add_input(row, builder.add(k, integer(u)), sums[u % len(sums)])
        with cgutils.for_range_slice(builder, last, behind, integer(1), inc=True) as (k, _):
            self._add_input(row, k, sums[0])
        totals = [builder.load(one) for one in sums]
        while len(totals) > 1:
            totals = [builder.fadd(*pair) for pair in zip(totals[::2], totals[1::2], strict=True)]
        builder.store(totals[0], end, align=self.itemsize)

    def _add_input(self, row, k, total) -> None:
        """Add the product with input k of one sample to a sum."""
        (weights,) = self._weights([row], k, (1, 1), fetches=False)
        x = self.builder.load(self.builder.gep(self.slabs, [k]))
        add_product(self.builder, total, weights, spread(self.builder, x, self.vector))

    def emit(self, shape, fetches: bool) -> None:
        """Everything for a tile of several samples, of one shape; ``fetches``: weights ahead are fetched."""
        builder, vector, (count, width) = self.builder, self.vector, shape
        places = (integer(i * vector.count) for i in range(count * width))
        ends = [vector_at(builder, self.tiles, place, vector) for place in places]
        rows = self._rows(count)

        def products(k):
            weights = self._weights(rows, k, shape, fetches)
            samples = builder.gep(self.slabs, [builder.mul(k, integer(width))])
            for b in range(width):
                x = spread(builder, builder.load(builder.gep(samples, [integer(b)])), vector)
                for p in range(count):
                    yield p * width + b, weights[p], x

        accumulate(builder, ends, self.work["add"], (self.work["begin"], self.work["end"]), products)

    def _rows(self, count: int) -> list:
        """The address of each panel."""
        builder, first = self.builder, self.work["first"]
        size = builder.mul(builder.extract_value(self.panels.shape, 1), integer(self.vector.count))
        numbers = (builder.add(first, integer(p)) for p in range(count))
        return [builder.gep(self.panels.data, [builder.mul(number, size)]) for number in numbers]

    def _weights(self, rows, k, shape, fetches: bool) -> list:
        """The weights of input k, a vector for each panel."""
        builder = self.builder
        column = builder.mul(k, integer(self.vector.count))
        places = [vector_at(builder, row, column, self.packed) for row in rows]
        for row in rows if fetches else ():
            fetch(builder, row, builder.add(column, self.work["ahead"]), shape[1] != MOST_SAMPLES)
        loaded = [builder.load(place, align=self.stored.bitwidth // 8) for place in places]
        return [expand(builder, packed, self.stored, self.vector) for packed in loaded]
