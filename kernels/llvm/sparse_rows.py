"""The innermost loops of a sparse product: rows of W times a few vectors of samples, in registers."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import overload

from .intrinsics import intrinsic
from .vectors import (
    HAS_MANY_REGISTERS,
    HAS_MASKS,
    VECTOR_BYTES,
    add_product,
    first_lanes,
    integer,
    lanes,
    load_lanes,
    spread,
    store_lanes,
    vector_at,
    zero,
)

# Vectors of samples at a time, at most.
ROW_VECTORS = 4
# Rows that read the same samples, at a time: as many as have registers for their sums.
ALIKE_ROWS = 4 if HAS_MANY_REGISTERS else 2


def add_columns(
    vectors: int,
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    places: np.ndarray,
    alike: np.ndarray,
    X: np.ndarray,
    column: int,
    start: np.ndarray,
    out: np.ndarray,
    low: float,
    high: float,
) -> None:
    """out[places, columns] = start[places, columns] + W X[:, columns], between two levels.

    Args:
        vectors: of columns, 1 to ``ROW_VECTORS``; where the last one reaches beyond X, nothing is touched.
        data, indices, indptr: W in compressed sparse rows, the indices and pointers unsigned.
        places: of its rows among those of start and out, unsigned.
        alike: of each row how many from it on have entries in the same columns, unsigned; there may be more
            of them than rows.
        X: (n, batch).
        column: the first.
        start: (m, 1), or (m, batch), perhaps ``out`` itself.
        out: (m, batch).
        low, high: levels; NaN stays NaN.
    """
    columns = slice(column, column + vectors * lanes(out.dtype))
    first = columns if start.shape[1] == out.shape[1] else slice(0, 1)
    for i, place in enumerate(places):
        row = slice(indptr[i], indptr[i + 1])
        product = start[place, first] + data[row] @ X[indices[row], columns]
        out[place, columns] = np.minimum(np.maximum(product, out.dtype.type(low)), out.dtype.type(high))


@overload(add_columns)
def _add_columns(vectors, data, indices, indptr, places, alike, X, column, start, out, low, high):
    real = out.dtype

    def call(vectors, data, indices, indptr, places, alike, X, column, start, out, low, high):
        _add(vectors, data, indices, indptr, places, alike, X, column, start, out, real(low), real(high))

    return call


@intrinsic
def _add(typing, vectors, data, indices, indptr, places, alike, X, column, start, out, low, high):
    def generate(context, builder, signature, arguments):
        vector_count, column, levels = arguments[0], arguments[7], arguments[10:]
        order = {"data": 1, "indices": 2, "indptr": 3, "places": 4, "alike": 5, "X": 6, "start": 8, "out": 9}
        arrays = {
            name: cgutils.create_struct_proxy(signature.args[i])(context, builder, arguments[i])
            for name, i in order.items()
        }
        real, whole_lanes = context.get_data_type(X.dtype), VECTOR_BYTES * 8 // X.dtype.bitwidth
        remaining = builder.sub(builder.extract_value(arrays["X"].shape, 1), column)
        for count in range(1, ROW_VECTORS + 1):
            last = builder.sub(remaining, integer((count - 1) * whole_lanes))
            for width, fewest, most in _last_vectors(whole_lanes, HAS_MASKS):
                condition = builder.icmp_signed("==", vector_count, integer(count))
                condition = builder.and_(condition, builder.icmp_signed(">=", last, integer(fewest)))
                if most is not None:
                    condition = builder.and_(condition, builder.icmp_signed("<=", last, integer(most)))
                with builder.if_then(condition):
                    vectors = [ir.VectorType(real, whole_lanes)] * (count - 1) + [ir.VectorType(real, width)]
                    mask = None if fewest == width else first_lanes(builder, last, vectors[-1])
                    _RowEmitter(builder, arrays, vectors, mask, column, levels).emit()
        return context.get_dummy_value()

    index, real = types.int64, out.dtype
    signature = types.void(index, data, indices, indptr, places, alike, X, index, start, out, real, real)
    return signature, generate


def _last_vectors(whole: int, has_masks: bool) -> list[tuple[int, int, int | None]]:
    """Widths of the last vector, each with the fewest and the most columns (None: any more) that it is for.

    It is no wider than needed: fewer of its loads cross a cache line.  Where there are no masks they become
    branches, so whole vectors do without.
    """
    if not has_masks:
        return [(whole, whole, None), (whole, 1, whole - 1)]
    half, quarter = whole // 2, whole // 4
    return [(whole, half + 1, None), (half, quarter + 1, half), (quarter, 1, quarter)]


def _unsigned(builder, place):
    """The unsigned number there, as an index."""
    number = builder.load(place)
    return number if number.type == ir.IntType(64) else builder.zext(number, ir.IntType(64))


class _RowEmitter:
    """Writes the loops for some vectors of columns from ``column`` on, of the last one those in ``mask``."""

    def __init__(self, builder, arrays, vectors, mask, column, levels) -> None:
        self.builder, self.arrays, self.vectors, self.column = builder, arrays, vectors, column
        self.levels = levels
        self.masks = [None] * (len(vectors) - 1) + [mask]
        self.places = [sum(vector.count for vector in vectors[:v]) for v in range(len(vectors))]
        self.width = builder.extract_value(arrays["X"].shape, 1)
        start_width = builder.extract_value(arrays["start"].shape, 1)
        self.is_column = builder.icmp_signed("!=", start_width, self.width)

    def emit(self) -> None:
        """The loop over the rows; of those that are alike a few at a time."""
        builder = self.builder
        count = builder.extract_value(self.arrays["places"].shape, 0)
        next_row = cgutils.alloca_once_value(builder, integer(0))
        rows, row, end = (builder.append_basic_block(f"sparse.{name}") for name in ("rows", "row", "end"))
        builder.branch(rows)
        builder.position_at_end(rows)
        first = builder.load(next_row)
        builder.cbranch(builder.icmp_signed("<", first, count), row, end)
        builder.position_at_end(row)
        # With fewer vectors entries of one row hide the latency of adding, so that sums are in another order.
        if len(self.vectors) == ROW_VECTORS:
            behind = builder.add(first, integer(ALIKE_ROWS))
            alike = _unsigned(builder, builder.gep(self.arrays["alike"].data, [first]))
            are_alike = builder.icmp_signed(">=", alike, integer(ALIKE_ROWS))
            are_alike = builder.and_(are_alike, builder.icmp_signed("<=", behind, count))
            with builder.if_else(are_alike) as (several, single):
                with several:
                    self._emit_rows(first, ALIKE_ROWS)
                    builder.store(behind, next_row)
                with single:
                    self._emit_rows(first, 1)
                    builder.store(builder.add(first, integer(1)), next_row)
        else:
            self._emit_rows(first, 1)
            builder.store(builder.add(first, integer(1)), next_row)
        builder.branch(rows)
        builder.position_at_end(end)

    def _emit_rows(self, first, count: int) -> None:
        """The loop over the entries of ``count`` rows that are alike, from ``first`` on."""
        builder, indptr = self.builder, self.arrays["indptr"].data
        begin, end = (
            _unsigned(builder, builder.gep(indptr, [builder.add(first, integer(side))])) for side in (0, 1)
        )
        length = builder.sub(end, begin)
        steps = [builder.mul(length, integer(row)) for row in range(count)]
        # Entries at a time: their sums, added up in the end, hide the latency of adding.
        unroll = ROW_VECTORS // len(self.vectors)
        sums = [
            [[zero(builder, vector) for vector in self.vectors] for _ in range(count)] for _ in range(unroll)
        ]
        unrolled_end = builder.sub(end, builder.srem(length, integer(unroll)))
        with cgutils.for_range_slice(builder, begin, unrolled_end, integer(unroll), inc=True) as (k, _):
            for step, totals in enumerate(sums):
                self._add(builder.add(k, integer(step)), steps, totals)
        with cgutils.for_range_slice(builder, unrolled_end, end, integer(1), inc=True) as (k, _):
            self._add(k, steps, sums[0])
        for row in range(count):
            place = builder.gep(self.arrays["places"].data, [builder.add(first, integer(row))])
            self._end(_unsigned(builder, place), [totals[row] for totals in sums])

    def _end(self, row, sums) -> None:
        """Store a row: its start, and the sums of each vector."""
        builder, target = self.builder, self._samples("out", row)
        for v, (total, mask) in enumerate(zip(self._started(row), self.masks, strict=True)):
            for totals in sums:
                total = builder.fadd(total, builder.load(totals[v]))
            store_lanes(builder, self._levelled(total), self._lanes(target, v), mask)

    def _started(self, row):
        """The vectors of start in a row: of one number, or of one for each sample."""
        builder, data = self.builder, self.arrays["start"].data
        found = [zero(builder, vector) for vector in self.vectors]
        with builder.if_else(self.is_column) as (of_column, of_samples):
            with of_column:
                number = builder.load(builder.gep(data, [row]))
                for vector, place in zip(self.vectors, found, strict=True):
                    builder.store(spread(builder, number, vector), place)
            with of_samples:
                source = self._samples("start", row)
                for v, (mask, place) in enumerate(zip(self.masks, found, strict=True)):
                    builder.store(load_lanes(builder, self._lanes(source, v), mask), place)
        return [builder.load(place) for place in found]

    def _levelled(self, value):
        """The vector between the two levels; NaN stays NaN in this order."""
        for comparison, level in zip("<>", self.levels, strict=True):
            limit = spread(self.builder, level, value.type)
            beyond = self.builder.fcmp_ordered(comparison, value, limit)
            value = self.builder.select(beyond, limit, value)
        return value

    def _add(self, k, steps, totals) -> None:
        """Add what entry k of a row, and those of the rows behind it, contribute."""
        builder = self.builder
        index = _unsigned(builder, builder.gep(self.arrays["indices"].data, [k]))
        samples = self._samples("X", index)
        vectors = [load_lanes(builder, self._lanes(samples, v), mask) for v, mask in enumerate(self.masks)]
        for step, of_row in zip(steps, totals, strict=True):
            weight = builder.load(builder.gep(self.arrays["data"].data, [builder.add(k, step)]))
            for x, total in zip(vectors, of_row, strict=True):
                add_product(builder, total, spread(builder, weight, x.type), x)

    def _samples(self, name, row):
        """The address of the first column in a row of X or out."""
        first = self.builder.add(self.builder.mul(row, self.width), self.column)
        return self.builder.gep(self.arrays[name].data, [first])

    def _lanes(self, numbers, v):
        """The address of vector v of the columns."""
        return vector_at(self.builder, numbers, integer(self.places[v]), self.vectors[v])
