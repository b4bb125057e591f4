"""Functions of one number that have another ``Form`` on every piece of the line.

Where a piece ends is exact: a comparison of a straight line with a number changes at its root.  What compares
anything else has no pieces, and stays the steps in which it is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from repurpose_hpc.model.importers.onnx import forms
from repurpose_hpc.model.importers.onnx.forms import Form, NoForm, X, number

_MOST_BREAKS = 16


@dataclass(frozen=True)
class Pieces:
    """A function of x, between and at the places where its form changes.

    Attributes:
        breaks: these places, rising.
        forms: below the first, at it, between it and the second, and so on: one more than two a break.
        rounded: breaks that another order of computation may move by a rounding error.
    """

    breaks: tuple[float, ...]
    forms: tuple[Form, ...]
    rounded: frozenset[float] = frozenset()

    @property
    def numbers(self) -> frozenset[float]:
        """Breaks and coefficients."""
        coefficients = (term.coefficient for form in self.forms for term in form.terms)
        return frozenset((*self.breaks, *coefficients))

    def value(self, x: float) -> float:
        """The function at ``x``."""
        place = sum(2 if at < x else at == x for at in self.breaks)
        return self.forms[place].value(x)

    def each(self, function: Callable[[Form], Form]) -> Pieces:
        """A smooth function of this one."""
        return replace(self, forms=tuple(map(function, self.forms)))

    def __add__(self, other: Pieces | float) -> Pieces:
        return _of_two(Form.__add__, self, other)

    def __mul__(self, other: Pieces | float) -> Pieces:
        return _of_two(Form.__mul__, self, other)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Pieces:
        return self * -1

    def __sub__(self, other: Pieces | float) -> Pieces:
        return self + -other

    def __rsub__(self, other: float) -> Pieces:
        return -self + other

    def __truediv__(self, other: Pieces | float) -> Pieces:
        return self * (other**-1 if isinstance(other, Pieces) else 1 / other)

    def __pow__(self, exponent: float) -> Pieces:
        return self.each(lambda form: forms.power(form, exponent))

    def exp(self) -> Pieces:
        """The exponential function of this one."""
        return self.each(forms.exp)

    def log(self) -> Pieces:
        """The logarithm of this one."""
        return self.each(forms.log)

    def erf(self) -> Pieces:
        """The error function of this one."""
        return self.each(forms.erf)

    def sigmoid(self) -> Pieces:
        """The sigmoid of this one."""
        return self.each(forms.sigmoid)

    def tanh(self) -> Pieces:
        """The hyperbolic tangent of this one."""
        return self.each(forms.tanh)

    def softplus(self) -> Pieces:
        """The softplus of this one."""
        return self.each(forms.softplus)

    def sign(self, threshold: float = 0.0) -> Pieces:
        """-1 below a threshold, 0 at it, 1 above it."""
        breaks, rounded = {*self.breaks}, {*self.rounded}
        ends = (-math.inf, *self.breaks, math.inf)
        for place, form in enumerate(self.forms[::2]):
            root, is_exact = _root(form, threshold)
            if root is not None and ends[place] <= root <= ends[place + 1]:
                breaks.add(root)
                if not is_exact:
                    rounded.add(root)
        if len(breaks) > _MOST_BREAKS:
            raise NoForm
        refined = self.refined(tuple(sorted(breaks)))
        signs = tuple(
            _sign(form, threshold, x) for form, x in zip(refined.forms, refined.inner(), strict=True)
        )
        return Pieces(refined.breaks, signs, frozenset(rounded))

    def is_greater(self, threshold: float) -> Pieces:
        """1 above a threshold, else 0."""
        return self.sign(threshold).each(lambda form: number(form.constant > 0))

    def is_less(self, threshold: float) -> Pieces:
        """1 below a threshold, else 0."""
        return self.sign(threshold).each(lambda form: number(form.constant < 0))

    def choose(self, if_true: Pieces, if_false: Pieces) -> Pieces:
        """One where this is 1, another one where it is 0."""
        condition, a, b = _aligned(self, if_true, if_false)
        if any(form.variable.terms for form in condition.forms):
            raise NoForm
        chosen = zip(condition.forms, a.forms, b.forms, strict=True)
        return replace(condition, forms=tuple(u if c.terms else v for c, u, v in chosen))

    def clip(self, low: float, high: float) -> Pieces:
        """Between two numbers; the larger one wins."""
        result = self
        if low > -math.inf:
            result = result.is_less(low).choose(constant(low), result)
        return result.is_greater(high).choose(constant(high), result) if high < math.inf else result

    def refined(self, breaks: tuple[float, ...]) -> Pieces:
        """The same function with more breaks."""
        cells = []
        for x in _inner(breaks):
            cells.append(self.forms[sum(2 if at < x else at == x for at in self.breaks)])
        return replace(self, breaks=breaks, forms=tuple(cells))

    def inner(self) -> list[float]:
        """A number of every piece."""
        return _inner(self.breaks)

    def simplified(self, tolerance: float) -> Pieces:
        """Without breaks where nothing changes."""
        breaks: list[float] = []
        cells = [self.forms[0]]
        for place, at in enumerate(self.breaks):
            point, above = self.forms[2 * place + 1 : 2 * place + 3]
            if cells[-1].is_close(above, tolerance) and not _jumps(at, cells[-1], point, tolerance):
                continue
            breaks.append(at)
            cells += [point, above]
        return replace(self, breaks=tuple(breaks), forms=tuple(cells))

    def equals(self, other: Pieces, tolerance: float) -> bool:
        """True if both are one function, but for the rounding of its constants, wherever it does not jump."""
        mine, its = self.simplified(tolerance), other.simplified(tolerance)
        if len(mine.breaks) != len(its.breaks):
            return False
        between = zip(mine.forms[::2], its.forms[::2], strict=True)
        return all(a.is_close(b, tolerance) for a, b in between) and all(
            _one_break(mine, its, place, tolerance) for place in range(len(mine.breaks))
        )


IDENTITY = Pieces((), (X,))


def constant(value: float) -> Pieces:
    """The same number everywhere."""
    return Pieces((), (number(value),))


def _inner(breaks: tuple[float, ...]) -> list[float]:
    if not breaks:
        return [0.0]
    inner = [breaks[0] - abs(breaks[0]) - 1]
    for at, following in zip(breaks, (*breaks[1:], math.inf), strict=True):
        inner += [at, at + abs(at) + 1 if following == math.inf else at + (following - at) / 2]
    return inner


def _aligned(*functions: Pieces) -> list[Pieces]:
    """The same functions with the breaks of all."""
    breaks = tuple(sorted({at for each in functions for at in each.breaks}))
    if len(breaks) > _MOST_BREAKS:
        raise NoForm
    rounded = frozenset().union(*(each.rounded for each in functions))
    return [replace(each.refined(breaks), rounded=rounded) for each in functions]


def _of_two(function: Callable[[Form, Form], Form], left: Pieces, right: Pieces | float) -> Pieces:
    right = right if isinstance(right, Pieces) else constant(right)
    left, right = _aligned(left, right)
    return replace(left, forms=tuple(map(function, left.forms, right.forms)))


def _root(form: Form, threshold: float) -> tuple[float | None, bool]:
    """Where a form is equal to a threshold, None where nowhere; True if no order of computation moves it.

    Raises:
        NoForm: it is no straight line, and no multiple of an exponential function of one.
    """
    if form.line is not None:
        slope, at_0 = form.line
        root = (threshold - at_0) / slope if slope else None
        return root, at_0 == 0 and abs(math.frexp(slope)[0]) == 0.5
    height = threshold - form.constant
    exponential = _exponential(form)
    ratio = height / exponential[0]
    return (_root(exponential[1], math.log(ratio))[0] if ratio > 0 else None), False


def _exponential(form: Form) -> tuple[float, Form]:
    """a and v of a exp(v) and a number, v a straight line."""
    terms = form.variable.terms
    if len(terms) == 1 and len(terms[0].factors) == 1:
        ((each, n),) = terms[0].factors
        if each.function == "exp" and n == 1 and each.argument is not None and each.argument.line is not None:
            return terms[0].coefficient, each.argument
    raise NoForm


def _sign(form: Form, threshold: float, x: float) -> Form:
    """The sign of a form less a threshold at ``x``, from the side of its root on which that is."""
    root, _ = _root(form, threshold)
    is_line = form.line is not None
    if root is None:  # an exponential function lies on one side of the threshold
        difference = form.constant - threshold if is_line else _exponential(form)[0]
        return number((difference > 0) - (difference < 0))
    slope = _slope(form) if is_line else _exponential(form)[0] * _slope(_exponential(form)[1])
    return number(((x > root) - (x < root)) * math.copysign(1, slope))


def _slope(line: Form) -> float:
    return line.line[0] if line.line is not None else 0.0


def _jumps(at: float, a: Form, b: Form, tolerance: float) -> bool:
    """True if two forms have other values at a place."""
    size = max(a.magnitude(at), b.magnitude(at))
    return not abs(a.value(at) - b.value(at)) <= tolerance * size


def _one_break(mine: Pieces, its: Pieces, place: int, tolerance: float) -> bool:
    """True if two functions, alike between their breaks, are alike at one of them."""
    at, its_at = mine.breaks[place], its.breaks[place]
    below, point, above = mine.forms[2 * place : 2 * place + 3]
    if _jumps(at, point, its.forms[2 * place + 1], tolerance):
        return False
    if _jumps(at, below, point, tolerance) or _jumps(at, point, above, tolerance):
        return at == its_at and at not in mine.rounded
    return math.isclose(at, its_at, rel_tol=tolerance)
