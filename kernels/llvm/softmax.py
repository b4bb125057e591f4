"""Exponentials of scores, a softmax in each lane: of some keys after the others, in one pass over all."""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import overload

from .exponentials import exponential, hyperbolic_tangent
from .intrinsics import intrinsic
from .vectors import integer, itemsize_of, opened, rolled, spread, variable, vector_at, vector_of


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


def limit_scores(scores: np.ndarray, softcap: float) -> None:
    """scores = softcap · tanh(scores / softcap), of whole vectors, one-dimensional."""
    scores[:] = softcap * np.tanh(scores / softcap)


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


@overload(limit_scores)
def _limit_scores(scores, softcap):
    return lambda scores, softcap: _limited(scores, scores.dtype.type(softcap))


@intrinsic
def _limited(typing, scores, softcap):
    def generate(context, builder, signature, arguments):
        scores, softcap = opened(context, builder, signature.args, arguments)
        vector = vector_of(context, signature.args[0])
        cap = spread(builder, softcap, vector)
        with rolled(builder, builder.extract_value(scores.shape, 0), vector.count) as t:
            place = vector_at(builder, scores.data, t, vector)
            values = builder.fdiv(builder.load(place, align=itemsize_of(vector)), cap)
            limited = builder.fmul(cap, hyperbolic_tangent(builder, values))
            builder.store(limited, place, align=itemsize_of(vector))
        return context.get_dummy_value()

    return types.void(scores, scores.dtype), generate


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
