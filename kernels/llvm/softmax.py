"""Exponentials of scores, a softmax in each lane: of some keys after the others, in one pass over all."""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import overload

from .intrinsics import intrinsic
from .vectors import (
    add_product,
    integer,
    itemsize_of,
    nearest,
    opened,
    rolled,
    variable,
    vector_at,
    vector_of,
)

# Of numbers of 4 and 8 bytes: bits behind the point, what is added to exponents where they are stored, and
# Taylor's terms of e^r for |r| < ln(2) / 2.
_FORMS = {4: (23, 127, 8), 8: (52, 1023, 14)}


def exponentiate(
    scores: np.ndarray, rows: int, largest: np.ndarray, totals: np.ndarray, factors: np.ndarray
) -> None:
    """Scores become exponentials of their distance from the largest of their column, as far as it is known.

    Columns in which all is -inf become 0.  Numbers of columns are whole vectors.

    Args:
        scores: (at least ``rows``, at least the columns), of which the first rows are new.
        rows: how many.
        largest: of each column up to now, at first -inf; updated.
        totals: the sum of exponentials of each column up to now, at first 0; updated.
        factors: overwritten with what exponentials up to now have to be multiplied with.
    """
    tile = scores[:rows, : largest.size]
    before = largest.copy()
    np.fmax(before, np.fmax.reduce(tile, axis=0, initial=-np.inf), out=largest)
    base = np.where(largest == -np.inf, 0, largest)
    factors[:] = np.exp(before - base)
    tile[:] = np.exp(tile - base)
    totals[:] = totals * factors + tile.sum(axis=0)


@overload(exponentiate)
def _exponentiate(scores, rows, largest, totals, factors):
    return lambda scores, rows, largest, totals, factors: _emitted(scores, rows, largest, totals, factors)


@intrinsic
def _emitted(typing, scores, rows, largest, totals, factors):
    def generate(context, builder, signature, arguments):
        parts = opened(context, builder, signature.args, arguments)
        scores, rows, largest, totals, factors = parts
        vector = vector_of(context, signature.args[0])
        pitch, columns = builder.extract_value(scores.shape, 1), builder.extract_value(largest.shape, 0)
        end = builder.mul(rows, pitch)
        with rolled(builder, columns, vector.count) as column:
            first = builder.gep(scores.data, [column])
            places = (vector_at(builder, each.data, column, vector) for each in (largest, totals, factors))
            _emit_column(builder, first, (pitch, end), *places)
        return context.get_dummy_value()

    return types.void(scores, types.int64, largest, totals, factors), generate


def _emit_column(builder, first, rows, largest, total, factor) -> None:
    """The two passes over a vector of columns; ``rows``: numbers from one row to the next, and to the end."""
    vector, (pitch, end) = largest.type.pointee, rows
    itemsize = itemsize_of(vector)
    before = builder.load(largest, align=itemsize)
    most = variable(builder, before)
    with cgutils.for_range_slice(builder, integer(0), end, pitch, inc=True) as (row, _):
        score = builder.load(vector_at(builder, first, row, vector), align=itemsize)
        known = builder.load(most)
        builder.store(builder.select(builder.fcmp_ordered(">", score, known), score, known), most)
    after = builder.load(most)
    builder.store(after, largest, align=itemsize)
    nothing = builder.fcmp_ordered("==", after, ir.Constant(vector, [-math.inf] * vector.count))
    base = builder.select(nothing, ir.Constant(vector, None), after)
    scale = exponential(builder, builder.fsub(before, base))
    builder.store(scale, factor, align=itemsize)
    kept = variable(builder, builder.fmul(builder.load(total, align=itemsize), scale))
    with cgutils.for_range_slice(builder, integer(0), end, pitch, inc=True) as (row, _):
        place = vector_at(builder, first, row, vector)
        value = exponential(builder, builder.fsub(builder.load(place, align=itemsize), base))
        builder.store(value, place, align=itemsize)
        builder.store(builder.fadd(builder.load(kept), value), kept)
    builder.store(builder.load(kept), total, align=itemsize)


def exponential(builder, x):
    """e^x of a vector of numbers of at most 0; 0 where it would underflow, and NaN stays NaN."""
    vector, itemsize = x.type, itemsize_of(x.type)
    mantissa, bias, terms = _FORMS[itemsize]
    whole = ir.VectorType(ir.IntType(8 * itemsize), vector.count)

    def number(value: float):
        return ir.Constant(vector, [value] * vector.count)

    def sum_of(value, left, right):
        total = variable(builder, value)
        add_product(builder, total, left, right)
        return builder.load(total)

    n = nearest(builder, builder.fmul(x, number(1 / math.log(2))))
    # ln 2 in one part does: where n is so large that its error is seen, e^x is next to nothing.
    rest = sum_of(x, n, number(-math.log(2)))
    power = number(1 / math.factorial(terms - 1))
    for k in reversed(range(terms - 1)):
        power = sum_of(number(1 / math.factorial(k)), power, rest)
    # The last bits of n + a number so large that it has none behind the point are those of n.
    bits = builder.bitcast(builder.fadd(n, number(1.5 * 2**mantissa)), whole)
    exponent = builder.add(bits, ir.Constant(whole, [bias] * vector.count))
    scale = builder.bitcast(builder.shl(exponent, ir.Constant(whole, [mantissa] * vector.count)), vector)
    tiny = builder.fcmp_ordered("<", x, number((1 - bias) * math.log(2)))
    return builder.select(tiny, number(0.0), builder.fmul(power, scale))
