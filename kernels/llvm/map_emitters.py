"""Writers of the loops of ``map_windows``: over maps, blocks of outputs, runs of tap rows, columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from .map_view import FEWEST_LANES, GATHERED, ROWS, STEPS, View, parts_of, tallest_run
from .vectors import (
    HAS_MASKS,
    add_product,
    every_second,
    fetch,
    first_lanes,
    gather_lanes,
    integer,
    itemsize_of,
    load_lanes,
    mask_of,
    maximum,
    opened,
    rolled,
    spread,
    store_lanes,
    variable,
    vector_at,
    vector_of,
)

# Rows so wide are fetched before they are needed: what a block sees lies too far apart for the processor to
# foresee the next.
_WIDE_BYTES = 160


class _Block(NamedTuple):
    """Rows and columns of outputs of a map: so many rows from ``p`` on, a vector of columns from ``q`` on."""

    step: int
    rows: int
    vector: ir.VectorType
    p: Any
    q: Any


class _Run(NamedTuple):
    """Tap rows that are added up together: their number, the first, and from one to the next."""

    height: int
    first: Any
    step: Any


# From a row of a run to the vector that is seen there.
_Load = Callable[[int], Any]


class Emitter:
    """Writer of the loops over maps, blocks, runs of tap rows and columns of taps.

    Attributes:
        fill: what lies beyond a map; also where sums begin.
        source, out: addresses of the map and of its outputs.
    """

    fill = 0.0

    def __init__(self, context, builder, typs, arguments) -> None:
        self.builder = builder
        view, maps, *others, source, out = opened(context, builder, typs, arguments)
        parts = (builder.extract_value(view, i) for i in range(len(View._fields)))
        fields = dict(zip(View._fields, opened(context, builder, typs[0].types, parts), strict=True))
        (self.height, self.width), (self.out_height, self.out_width), self.maps = (
            self._pair(pair) for pair in (fields["shape"], fields["out_shape"], maps)
        )
        window = (builder.extract_value(fields["window"], i) for i in range(4))
        self.kernel, self.strides, self.dilations, self.pads = map(self._pair, window)
        self.batch, self.rows, self.slack = (fields[name] for name in ("batch", "rows", "slack"))
        self.runs, self.masks, self.copy = (fields[name].data for name in ("runs", "masks", "copy"))
        self.run_count = builder.extract_value(fields["runs"].shape, 0)
        self.border = builder.gep(fields["border"].data, [self.slack])
        self.others = [array.data for array in others]
        self.sources, self.outs = source.data, out.data
        self.vector = vector_of(context, typs[-1])

    def _pair(self, pair) -> list:
        return [self.builder.extract_value(pair, i) for i in range(2)]

    def _sum(self, *terms):
        return self._folded(self.builder.add, terms)

    def _product(self, *factors):
        return self._folded(self.builder.mul, factors)

    def _folded(self, operation, terms):
        first, *rest = (integer(term) if isinstance(term, int) else term for term in terms)
        for term in rest:
            first = operation(first, term)
        return first

    def _equal(self, left, right: int):
        return self.builder.icmp_signed("==", left, integer(right))

    def emit(self) -> None:
        """Everything."""
        builder, step = self.builder, self.strides[1]
        is_gathered = builder.not_(builder.or_(*(self._equal(step, each) for each in STEPS)))
        with builder.if_then(is_gathered):
            self._emit_maps(GATHERED, 1)
        for each in STEPS:
            for rows in ROWS:
                with builder.if_then(builder.and_(self._equal(step, each), self._equal(self.rows, rows))):
                    self._emit_maps(each, rows)

    def _emit_maps(self, step: int, rows: int) -> None:
        builder = self.builder
        first, end = self.maps
        with rolled(builder, builder.sub(end, first)) as number:
            m = self._sum(first, number)
            size = self._product(self.height, self.width)
            self.source = builder.gep(self.sources, [self._product(m, size)])
            self.out = builder.gep(self.outs, [self._product(m, self.out_height, self.out_width)])
            if not HAS_MASKS:
                self._copy_source(size)
            self._begin(m)
            with rolled(builder, self.out_height, rows) as p:
                self._fetch_source(rows, p)
                self._emit_rows(step, rows, p)

    def _emit_rows(self, step: int, rows: int, p) -> None:
        builder, count = self.builder, self.vector.count
        with rolled(builder, self.out_width, count) as q:
            whole = _Block(step, rows, self.vector, p, q)
            if count < FEWEST_LANES:
                self._emit_block(whole)
                return
            half = whole._replace(vector=ir.VectorType(self.vector.element, count // 2))
            left = builder.sub(self.out_width, q)
            with builder.if_else(builder.icmp_signed("<=", left, integer(count // 2))) as (few, many):
                with few:
                    self._emit_block(half)
                with many:
                    self._emit_block(whole)

    def _emit_block(self, block: _Block) -> None:
        builder, vector = self.builder, block.vector
        sums = [variable(builder, self._initial(vector)) for _ in range(block.rows)]
        self._fetch_out(block)
        with rolled(builder, self.run_count) as number:
            place = builder.gep(self.runs, [self._product(number, 3)])
            first, height, step = (builder.load(builder.gep(place, [integer(i)])) for i in range(3))
            for each in range(1, tallest_run(block.rows, block.step) + 1):
                with builder.if_then(self._equal(height, each)):
                    self._emit_run(block, _Run(each, first, step), sums)
        mask = first_lanes(builder, builder.sub(self.out_width, block.q), vector)
        for i, total in enumerate(sums):
            row = self._sum(block.p, i)
            with builder.if_then(builder.icmp_signed("<", row, self.out_height)):
                place = self._sum(self._product(row, self.out_width), block.q)
                value = self._finished(builder.load(total), place, mask)
                store_lanes(builder, value, vector_at(builder, self.out, place, vector), mask)

    def _emit_run(self, block: _Block, run: _Run, sums: list) -> None:
        """Add up what some tap rows see."""
        raise NotImplementedError

    def _copy_source(self, size) -> None:
        """Copy the map to where vectors may read before and behind it."""
        copy = self.builder.gep(self.copy, [self.slack])
        cgutils.raw_memcpy(self.builder, copy, self.source, size, itemsize_of(self.vector))
        self.source = copy

    def _begin(self, m) -> None:
        """What changes from map to map."""

    def _initial(self, vector):
        """What sums begin with."""
        return self._filled(vector)

    def _finished(self, total, place, mask):
        """The outputs of sums; ``place``: of the first in the map."""
        return total

    def _columns(self, block: _Block, run: _Run) -> Iterator[tuple[Any, _Load]]:
        """Emit a loop over columns of taps; yield its number and a function that loads from a row."""
        builder, parts = self.builder, parts_of(block.step)
        rows = self._rows(block, run)
        first = builder.sub(self._product(block.q, self.strides[1]), self.pads[1])
        chunk = builder.sdiv(block.q, integer(self.vector.count))
        with rolled(builder, self.kernel[1]) as v:
            number = self._product(self._sum(self._product(chunk, self.kernel[1]), v), parts)
            masks = [
                mask_of(builder, builder.gep(self.masks, [self._sum(number, part)]), block.vector)
                for part in range(parts)
            ]
            column = self._sum(first, self._product(v, self.dilations[1]))
            yield v, lambda row: self._load(block, builder.gep(rows[row], [column]), masks)

    def _rows(self, block: _Block, run: _Run) -> list:
        """Addresses of the rows that outputs see with a run; those beyond the map are the border's."""
        builder, stride = self.builder, self.strides[0]
        seen = self._sum(self._product(block.p, stride), self._product(run.first, self.dilations[0]))
        row = builder.sub(seen, self.pads[0])
        place = builder.gep(self.source, [self._product(row, self.width)])
        further, rows = self._product(stride, self.width), []
        for _ in range(block.rows + run.height - 1):
            is_inside = builder.icmp_unsigned("<", row, self.height)
            rows.append(builder.select(is_inside, place, self.border))
            row, place = self._sum(row, stride), builder.gep(place, [further])
        return rows

    def _load(self, block: _Block, start, masks: list):
        builder, vector, fill = self.builder, block.vector, self._filled(block.vector)
        if block.step == GATHERED:
            return gather_lanes(builder, start, self.strides[1], masks[0], fill)
        parts = []
        for i, mask in enumerate(masks):
            place = vector_at(builder, start, integer(i * vector.count), vector)
            if HAS_MASKS:
                parts.append(load_lanes(builder, place, mask, fill))
            else:
                parts.append(builder.select(mask, load_lanes(builder, place, None), fill))
        return parts[0] if block.step == 1 else every_second(builder, *parts)

    def _fetch_source(self, rows: int, p) -> None:
        """Have what the next rows of outputs see brought into the second cache, where rows are wide."""
        builder, least = self.builder, _WIDE_BYTES // itemsize_of(self.vector)
        is_wide = builder.icmp_signed(">=", self.width, integer(least))
        seen = self._product(rows, self.strides[0], self.width)
        begin = builder.gep(self.source, [self._product(self._sum(p, rows), self.strides[0], self.width)])
        with builder.if_then(is_wide), rolled(builder, seen, self.vector.count) as t:
            fetch(builder, begin, t, False)

    def _fetch_out(self, block: _Block) -> None:
        """Have the place of the outputs below a block brought into the cache, where a row has many."""
        builder = self.builder
        place = builder.gep(
            self.out, [self._sum(self._product(self._sum(block.p, block.rows), self.out_width), block.q)]
        )
        for _ in range(block.rows if block.vector is self.vector else 0):
            fetch(builder, place, integer(0), False, is_written=True)
            place = builder.gep(place, [self.out_width])

    def _filled(self, vector):
        return ir.Constant(vector, [self.fill] * vector.count)


class FilterEmitter(Emitter):
    """``filter_maps``."""

    def _begin(self, m) -> None:
        builder, (taps, start) = self.builder, self.others
        neuron = builder.udiv(m, self.batch)
        self.taps = builder.gep(taps, [self._product(neuron, *self.kernel)])
        self.start = builder.load(builder.gep(start, [neuron]))

    def _initial(self, vector):
        return spread(self.builder, self.start, vector)

    def _emit_run(self, block: _Block, run: _Run, sums: list) -> None:
        builder = self.builder
        for v, load in self._columns(block, run):
            taps = []
            for k in range(run.height):
                row = self._sum(run.first, self._product(run.step, k))
                tap = builder.gep(self.taps, [self._sum(self._product(row, self.kernel[1]), v)])
                taps.append(spread(builder, builder.load(tap), block.vector))
            for row in range(block.rows + run.height - 1):
                x = load(row)
                for i in range(max(0, row - run.height + 1), min(block.rows, row + 1)):
                    add_product(builder, sums[i], taps[row - i], x)


class _PoolEmitter(Emitter):
    """Sums, or the like, of columns, then of rows: so each row is added up across only once."""

    def _emit_run(self, block: _Block, run: _Run, sums: list) -> None:
        across = [
            variable(self.builder, self._filled(block.vector)) for _ in range(block.rows + run.height - 1)
        ]
        for _, load in self._columns(block, run):
            for row, total in enumerate(across):
                self._add(total, load(row))
        values = [self.builder.load(total) for total in across]
        for i, total in enumerate(sums):
            for value in values[i : i + run.height]:
                self._add(total, value)

    def _add(self, total, value) -> None:
        self.builder.store(self._combined(value, self.builder.load(total)), total)

    def _combined(self, left, right):
        raise NotImplementedError


class LargestEmitter(_PoolEmitter):
    """``largest_of_maps``."""

    fill = -np.inf

    def _combined(self, left, right):
        return maximum(self.builder, left, right)


class MeanEmitter(_PoolEmitter):
    """``mean_of_maps``."""

    def _combined(self, left, right):
        return self.builder.fadd(left, right)

    def _finished(self, total, place, mask):
        shares = vector_at(self.builder, self.others[0], place, total.type)
        return self.builder.fmul(total, load_lanes(self.builder, shares, mask))
