"""Functions of vectors that are made of exponentials, to about the last digit."""

from __future__ import annotations

import math

from llvmlite import ir

from .vectors import (
    absolute,
    add_product,
    as_it_is,
    itemsize_of,
    variable,
    with_sign_of,
)

# Of numbers of 4 and 8 bytes: bits behind the point, what is added to exponents where they are stored, and
# Taylor's terms of e^r for |r| < ln(2) / 2.
_FORMS = {4: (23, 127, 8), 8: (52, 1023, 14)}


def exponential(builder, x):
    """e^x of a vector of numbers of at most 0; 0 where it would underflow, and NaN stays NaN."""
    scale, rest = _parts(builder, x)
    return builder.select(_is_tiny(builder, x), _number(x, 0.0), _sum_of(builder, scale, scale, rest))


def hyperbolic_tangent(builder, x):
    """The hyperbolic tangent of a vector of numbers."""
    # With m = e^(-2|x|) - 1, which is as exact as x where both are small, it is -m / (2 + m).
    twice = builder.fmul(absolute(builder, x), _number(x, -2.0))
    scale, rest = _parts(builder, twice)
    one = as_it_is(builder, builder.fsub(scale, _number(x, 1.0)))
    m = builder.select(_is_tiny(builder, twice), _number(x, -1.0), _sum_of(builder, one, scale, rest))
    return with_sign_of(builder, builder.fdiv(m, builder.fadd(m, _number(x, 2.0))), x)


def _parts(builder, x):
    """A power of 2, s, and a number r for which s + s r is e^x, unless that would underflow."""
    vector, itemsize = x.type, itemsize_of(x.type)
    mantissa, bias, terms = _FORMS[itemsize]
    whole = ir.VectorType(ir.IntType(8 * itemsize), vector.count)
    # n is the whole number nearest to x / ln 2.  Its sum with a number so large that it has no bits behind
    # the point ends with the bits of n, and of what is added to exponents.
    large = _number(x, 1.5 * 2**mantissa + bias)
    shifted = as_it_is(builder, _sum_of(builder, large, x, _number(x, 1 / math.log(2))))
    n = builder.fsub(shifted, large)
    # ln 2 in one part does: where n is so large that its error is seen, e^x is next to nothing.
    rest = _sum_of(builder, x, n, _number(x, -math.log(2)))
    power = _number(x, 1 / math.factorial(terms - 1))
    for k in reversed(range(1, terms - 1)):
        power = _sum_of(builder, _number(x, 1 / math.factorial(k)), power, rest)
    bits = builder.shl(builder.bitcast(shifted, whole), ir.Constant(whole, [mantissa] * vector.count))
    scale = builder.bitcast(bits, vector)
    return scale, builder.fmul(power, rest)


def _is_tiny(builder, x):
    return builder.fcmp_ordered("<", x, _number(x, (1 - _FORMS[itemsize_of(x.type)][1]) * math.log(2)))


def _number(x, value: float):
    return ir.Constant(x.type, [value] * x.type.count)


def _sum_of(builder, value, left, right):
    """value + left · right."""
    total = variable(builder, value)
    add_product(builder, total, left, right)
    return builder.load(total)
