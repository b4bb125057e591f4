"""Windows of single maps: a few rows of outputs by a vector of columns at a time, finished in registers.

What windows see is read where it lies.  Lanes beyond the columns of a map are masked, and rows beyond it are
read from a row of numbers that change nothing.  So there is no copy with a border, and every output is
written once.  A row that several rows of outputs see is loaded once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import overload, register_jitable

from ..arguments import Pair, Window2D
from .intrinsics import intrinsic
from .vectors import (
    HAS_MANY_REGISTERS,
    HAS_MASKS,
    add_product,
    every_second,
    fetch,
    first_lanes,
    gather_lanes,
    integer,
    itemsize_of,
    lanes,
    load_lanes,
    mask_of,
    maximum,
    opened,
    rolled,
    spread,
    store_lanes,
    vector_at,
    vector_of,
)

# Rows of outputs at a time: their sums, and what they see, are in registers.  Rows that are not there are
# computed, but not stored: one sum alone would take as long as four, for the latency of adding.
ROWS = (4, 8) if HAS_MANY_REGISTERS else (4,)
# Columns from an output to the next that have loops of their own; GATHERED is that of all others.
STEPS = (1, 2)
GATHERED = 0
# A vector of fewer lanes has no half for the end of a row.
_FEWEST_LANES = 8
# Rows so wide are fetched before they are needed: what a block sees lies too far apart for the processor to
# foresee the next.
_WIDE_BYTES = 160


class View(NamedTuple):
    """What windows see, the same for every map.

    Attributes:
        shape: of a map, (H, W).
        window: on it.
        out_shape: (OH, OW).
        batch: maps of one neuron.
        rows: of outputs at a time, as of ``rows_for``.
        runs: (runs, 3) int64, tap rows that are added up together: the first, how many, and from one to the
            next.  What an output sees with the second of them, the output below sees with the first.
        masks: uint32, bits of the lanes that are inside the map: by vector of a row of outputs, column of
            taps, and part as of ``parts_of``.
        border: a row of the map of what lies beyond it, with ``slack`` numbers before and after.
        slack: numbers that vectors read before and after a row; 0 where they can leave lanes out.
        copy: room for a map with ``slack`` numbers before and after; empty if there is no slack.
    """

    shape: Pair
    window: Window2D
    out_shape: Pair
    batch: int
    rows: int
    runs: np.ndarray
    masks: np.ndarray
    border: np.ndarray
    slack: int
    copy: np.ndarray


@register_jitable
def rows_for(rows: int, step: int) -> int:
    """Rows of outputs to take at a time, of ``rows``; ``step``: columns from an output to the next."""
    if step not in STEPS:
        return 1
    return ROWS[0] if rows <= ROWS[0] else ROWS[-1]


@register_jitable
def tallest_run(rows: int, step: int) -> int:
    """Tap rows that are added up together, at most, for so many rows of outputs at a time."""
    if rows < ROWS[-1]:  # saves time of compiling: few rows have little to share
        return 1
    return 3 if step == 1 else 2


@register_jitable
def parts_of(step: int) -> int:
    """Vectors of a map from which the one is made that an output's step takes apart."""
    return 2 if step == 2 else 1


@register_jitable
def lanes_for(left: int, dtype: np.dtype) -> int:
    """Numbers of the next vector of a row of outputs with ``left`` of them: half a vector if that will do."""
    count = lanes(dtype)
    return count // 2 if count >= _FEWEST_LANES and left <= count // 2 else count


def filter_maps(
    view: View, maps: Pair, taps: np.ndarray, start: np.ndarray, source: np.ndarray, out: np.ndarray
) -> None:
    """Outputs = start + Σ_k taps[k] · what they see with entry k of their window.

    Args:
        view: of every map.
        maps: the first, and the one behind the last.
        taps: (n, kh, kw), of neurons.
        start: of neurons, n numbers.
        source: (n, batch, H, W).
        out: (n, batch, OH, OW).
    """
    neurons = np.arange(*maps) // view.batch
    taps, start = taps.reshape(len(taps), -1)[neurons], start.reshape(-1)[neurons]
    _outputs(view, maps, out)[:] = start[:, None, None] + np.einsum(
        "mk,mpqk->mpq", taps, _seen(view, maps, source)
    )


def largest_of_maps(view: View, maps: Pair, source: np.ndarray, out: np.ndarray) -> None:
    """Outputs = the largest number that they see, NaN if there is one; otherwise as ``filter_maps``."""
    _outputs(view, maps, out)[:] = _seen(view, maps, source).max(-1)


def mean_of_maps(view: View, maps: Pair, shares: np.ndarray, source: np.ndarray, out: np.ndarray) -> None:
    """Outputs = the sum of what they see times their share, of OH · OW; otherwise as ``filter_maps``."""
    _outputs(view, maps, out)[:] = _seen(view, maps, source).sum(-1) * shares.reshape(view.out_shape)


def _outputs(view: View, maps: Pair, out: np.ndarray) -> np.ndarray:
    return out.reshape(-1, *view.out_shape)[slice(*maps)]


def _seen(view: View, maps: Pair, source: np.ndarray) -> np.ndarray:
    """What every output sees, (maps, OH, OW, kh · kw)."""
    kernel, strides, dilations, pads = view.window
    x = source.reshape(-1, *view.shape)[slice(*maps)]
    result = np.full((len(x), *view.out_shape, kernel[0] * kernel[1]), view.border[0], x.dtype)
    for k, taps in enumerate(np.ndindex(*kernel)):
        rows, columns = (
            np.arange(count) * stride + tap * dilation - pad
            for count, stride, tap, dilation, pad in zip(
                view.out_shape, strides, taps, dilations, pads, strict=True
            )
        )
        down, across = (
            np.flatnonzero((each >= 0) & (each < size))
            for each, size in zip((rows, columns), view.shape, strict=True)
        )
        result[:, down[:, None], across, k] = x[:, rows[down][:, None], columns[across]]
    return result


@overload(filter_maps)
def _filter_maps(view, maps, taps, start, source, out):
    return lambda view, maps, taps, start, source, out: _filter(view, maps, taps, start, source, out)


@overload(largest_of_maps)
def _largest_of_maps(view, maps, source, out):
    return lambda view, maps, source, out: _largest(view, maps, source, out)


@overload(mean_of_maps)
def _mean_of_maps(view, maps, shares, source, out):
    return lambda view, maps, shares, source, out: _mean(view, maps, shares, source, out)


@intrinsic
def _filter(typing, view, maps, taps, start, source, out):
    return types.void(view, maps, taps, start, source, out), _generator(_FilterEmitter)


@intrinsic
def _largest(typing, view, maps, source, out):
    return types.void(view, maps, source, out), _generator(_LargestEmitter)


@intrinsic
def _mean(typing, view, maps, shares, source, out):
    return types.void(view, maps, shares, source, out), _generator(_MeanEmitter)


def _generator(emitter: type[_Emitter]) -> Callable:
    def generate(context, builder, signature, arguments):
        emitter(context, builder, signature.args, arguments).emit()
        return context.get_dummy_value()

    return generate


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


class _Emitter:
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
            if count < _FEWEST_LANES:
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
        sums = [self._variable(self._initial(vector)) for _ in range(block.rows)]
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

    def _variable(self, value):
        """A vector that the compiler keeps in a register."""
        place = cgutils.alloca_once(self.builder, value.type)
        self.builder.store(value, place)
        return place


class _FilterEmitter(_Emitter):
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


class _PoolEmitter(_Emitter):
    """Sums, or the like, of columns, then of rows: so each row is added up across only once."""

    def _emit_run(self, block: _Block, run: _Run, sums: list) -> None:
        across = [self._variable(self._filled(block.vector)) for _ in range(block.rows + run.height - 1)]
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


class _LargestEmitter(_PoolEmitter):
    """``largest_of_maps``."""

    fill = -np.inf

    def _combined(self, left, right):
        return maximum(self.builder, left, right)


class _MeanEmitter(_PoolEmitter):
    """``mean_of_maps``."""

    def _combined(self, left, right):
        return self.builder.fadd(left, right)

    def _finished(self, total, place, mask):
        shares = vector_at(self.builder, self.others[0], place, total.type)
        return self.builder.fmul(total, load_lanes(self.builder, shares, mask))
