"""The innermost loops of a product with inputs that are 0 or 1: which are 1, and the sums of their weights.

Weights are in panels as of ``tiles``.  Of each panel the vector of an input is loaded only where the input is
1, and the sums of several panels hide the latency of adding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import overload

from .intrinsics import intrinsic
from .stored import expand, expanded
from .vectors import HAS_MANY_REGISTERS, integer, itemsize_of, lanes, vector_at, vector_of, zero

# Panels at a time, at most.
EVENT_PANELS = 8 if HAS_MANY_REGISTERS else 4


class EventWork(NamedTuple):
    """The sums of one sample, and what is added up for them.

    Attributes:
        panels: how many, 1 to ``EVENT_PANELS``.
        first: panel.
        begin, end: of the sample's events.
        tile: number in the tiles at which the sums of the first panel are.
        step: numbers from there to those of the next panel.
        add: to what is in the tile; else it is overwritten.
    """

    panels: int
    first: int
    begin: int
    end: int
    tile: int
    step: int
    add: bool


def add_events(work: EventWork, panels: np.ndarray, events: np.ndarray, tiles: np.ndarray) -> None:
    """tile[p] (+)= Σ_k panels[first + p, events[k]], k from ``begin`` to ``end``.

    Args:
        work: see there.
        panels: (panels, n, R), real numbers or codes (see ``stored``).
        events: inputs that are 1, one-dimensional, unsigned.
        tiles: one-dimensional.
    """
    count, first, begin, end, tile, step, add = work
    W = expanded(panels[first : first + count])[:, events[begin:end]]
    for p in range(count):
        sums = slice(tile + p * step, tile + p * step + panels.shape[2])
        tiles[sums] = W[p].sum(axis=0) + (tiles[sums] if add else 0)


@overload(add_events)
def _add_events(work, panels, events, tiles):
    return lambda work, panels, events, tiles: _add(work, panels, events, tiles)


@intrinsic
def _add(typing, work, panels, events, tiles):
    def generate(context, builder, signature, arguments):
        work_type, *typs = signature.args
        work = {}
        for index, (name, typ) in enumerate(zip(EventWork._fields, work_type.types, strict=True)):
            number = builder.extract_value(arguments[0], index)
            general = types.boolean if name == "add" else types.int64
            work[name] = context.cast(builder, number, typ, general)
        arrays = [
            cgutils.create_struct_proxy(typ)(context, builder, value)
            for typ, value in zip(typs, arguments[1:], strict=True)
        ]
        vector, stored = vector_of(context, typs[2]), typs[0].dtype
        packed = ir.VectorType(context.get_data_type(stored), vector.count)
        for count in range(1, EVENT_PANELS + 1):
            with builder.if_then(builder.icmp_signed("==", work["panels"], integer(count))):
                _emit(builder, work, arrays, (vector, packed, stored), count)
        return context.get_dummy_value()

    return types.void(work, panels, events, tiles), generate


def nonzero_lanes(numbers: np.ndarray, place: int) -> int:
    """The numbers that are not 0 of a vector from ``place`` on, a bit for each; the first is the lowest."""
    return sum(1 << lane for lane in range(lanes(numbers.dtype)) if numbers[place + lane] != 0)


@overload(nonzero_lanes)
def _nonzero_lanes(numbers, place):
    return lambda numbers, place: _mask(numbers, place)


@intrinsic
def _mask(typing, numbers, place):
    def generate(context, builder, signature, arguments):
        array = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
        vector = vector_of(context, signature.args[0])
        values = builder.load(vector_at(builder, array.data, arguments[1], vector), align=itemsize_of(vector))
        # NaN is not 0 either.
        mask = builder.fcmp_unordered("!=", values, ir.Constant(vector, None))
        return builder.zext(builder.bitcast(mask, ir.IntType(vector.count)), ir.IntType(64))

    return types.int64(numbers, types.int64), generate


def lowest_bit(mask: int) -> int:
    """The number of the lowest bit that is 1, of a mask that has one."""
    return (mask & -mask).bit_length() - 1


@overload(lowest_bit)
def _lowest_bit(mask):
    return lambda mask: _trailing_zeros(mask)


@intrinsic
def _trailing_zeros(typing, mask):
    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


def _emit(builder, work, arrays, kinds, count: int) -> None:
    """The loop over the events, for so many panels."""
    (panels, events, tiles), (vector, packed, stored) = arrays, kinds
    width = integer(vector.count)
    size = builder.mul(builder.extract_value(panels.shape, 1), width)
    numbers = (builder.add(work["first"], integer(p)) for p in range(count))
    rows = [builder.gep(panels.data, [builder.mul(number, size)]) for number in numbers]
    sums = [zero(builder, vector) for _ in rows]
    places = [builder.add(work["tile"], builder.mul(work["step"], integer(p))) for p in range(count)]
    ends = [vector_at(builder, tiles.data, place, vector) for place in places]
    with builder.if_then(work["add"]):
        for total, end in zip(sums, ends, strict=True):
            builder.store(builder.load(end, align=itemsize_of(vector)), total)
    with cgutils.for_range_slice(builder, work["begin"], work["end"], integer(1), inc=True) as (k, _):
        event = builder.zext(builder.load(builder.gep(events.data, [k])), ir.IntType(64))
        column = builder.mul(event, width)
        for row, total in zip(rows, sums, strict=True):
            weights = builder.load(vector_at(builder, row, column, packed), align=stored.bitwidth // 8)
            weights = expand(builder, weights, stored, vector)
            builder.store(builder.fadd(builder.load(total), weights), total)
    for total, end in zip(sums, ends, strict=True):
        builder.store(builder.load(total), end, align=itemsize_of(vector))
