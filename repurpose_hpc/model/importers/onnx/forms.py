"""Normal forms of smooth functions of one number, by which two ways to write a function are told to be one.

A ``Form`` is a sum of products of *atoms*: the argument x itself, and functions of other forms.  Its
arithmetic multiplies out, and knows what tanh, sigmoid, softplus, exp and log have to do with each other, so
that 0.5 x (1 + tanh u) and x sigmoid(2 u) become one form.  All is exact but for the rounding of the
coefficients: two forms are compared by their structure, and by coefficients up to a tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

# Larger ones belong to no activation.
_MOST_TERMS = 16
_HIGHEST_POWER = 4


class NoForm(Exception):
    """A function, or its places of a change, cannot be written in this way."""


@dataclass(frozen=True)
class Atom:
    """A function of a form; without an argument, x itself.

    Attributes:
        function: ``x``, or the name of an activation.
        argument: what it is applied to.
        parameters: of the function.
    """

    function: str
    argument: Form | None = None
    parameters: tuple[float, ...] = ()

    @cached_property
    def key(self) -> str:
        """The structure, coefficients left out."""
        argument = "" if self.argument is None else f"({self.argument.key})"
        return self.function + "".join(f":{number!r}" for number in self.parameters) + argument

    def value(self, x: float) -> float:
        """The function at ``x``."""
        if self.argument is None:
            return x
        return _VALUES[self.function](self.argument.value(x), *self.parameters)


@dataclass(frozen=True)
class Term:
    """A coefficient times powers of atoms, in the order of their keys."""

    coefficient: float
    factors: tuple[tuple[Atom, int], ...] = ()

    @cached_property
    def key(self) -> str:
        """The structure, the coefficient left out."""
        return "*".join(f"{atom.key}^{power}" for atom, power in self.factors)

    def value(self, x: float) -> float:
        """The product at ``x``."""
        return math.prod((atom.value(x) ** power for atom, power in self.factors), start=self.coefficient)


@dataclass(frozen=True)
class Form:
    """A sum of terms in the order of their keys, none of them 0; a number comes first."""

    terms: tuple[Term, ...] = ()

    @cached_property
    def key(self) -> str:
        """The structure, coefficients left out."""
        return "+".join(term.key for term in self.terms)

    @property
    def constant(self) -> float:
        """The term without x."""
        return self.terms[0].coefficient if self.terms and not self.terms[0].factors else 0.0

    @property
    def variable(self) -> Form:
        """All other terms."""
        return Form(self.terms[1:]) if self.constant else self

    @property
    def line(self) -> tuple[float, float] | None:
        """Slope and value at 0; None if it is no straight line."""
        terms = self.variable.terms
        if not terms:
            return 0.0, self.constant
        is_line = len(terms) == 1 and terms[0].factors == X.terms[0].factors
        return (terms[0].coefficient, self.constant) if is_line else None

    def value(self, x: float) -> float:
        """The function at ``x``, in double precision; infinite or NaN where it is too large."""
        with np.errstate(all="ignore"):
            return float(sum((term.value(np.float64(x)) for term in self.terms), start=np.float64(0)))

    def magnitude(self, x: float) -> float:
        """The sum of the absolute values of its terms at ``x``."""
        with np.errstate(all="ignore"):
            return float(sum(abs(term.value(np.float64(x))) for term in self.terms))

    def is_close(self, other: Form, tolerance: float) -> bool:
        """True if both are one function but for relative errors of coefficients up to ``tolerance``."""
        return len(self.terms) == len(other.terms) and all(
            _are_close(mine, its, tolerance) for mine, its in zip(self.terms, other.terms, strict=True)
        )

    def __add__(self, other: Form) -> Form:
        return _collected((*self.terms, *other.terms))

    def __mul__(self, other: Form) -> Form:
        if len(self.terms) * len(other.terms) > _MOST_TERMS**2:
            raise NoForm
        return _collected(_product(a, b) for a in self.terms for b in other.terms)

    def scaled(self, factor: float) -> Form:
        """The form times a number."""
        return self * number(factor)


def _are_close(a: Term, b: Term, tolerance: float) -> bool:
    if a.key != b.key or not math.isclose(a.coefficient, b.coefficient, rel_tol=tolerance):
        return False
    return all(
        mine.argument is None or mine.argument.is_close(its.argument, tolerance)
        for (mine, _), (its, _) in zip(a.factors, b.factors, strict=True)
        if its.argument is not None
    )


def _collected(terms: Iterable[Term]) -> Form:
    """The sum of terms, like ones added up."""
    sums: dict[tuple[tuple[Atom, int], ...], float] = {}
    for term in terms:
        sums[term.factors] = sums.get(term.factors, 0.0) + term.coefficient
    kept = [Term(coefficient, factors) for factors, coefficient in sums.items() if coefficient != 0]
    if len(kept) > _MOST_TERMS or not all(math.isfinite(term.coefficient) for term in kept):
        raise NoForm
    return Form(tuple(sorted(kept, key=lambda term: (term.key, term.coefficient))))


def _product(a: Term, b: Term) -> Term:
    """A product; of several exp, one of the sum of their arguments is left."""
    powers = dict(a.factors)
    for atom, power in b.factors:
        before = powers.get(atom, 0)
        if before * power < 0:  # which has no value where the atom is 0
            raise NoForm
        powers[atom] = before + power
    if max(map(abs, powers.values()), default=0) > _HIGHEST_POWER:
        raise NoForm
    coefficient, exponent = a.coefficient * b.coefficient, Form()
    exponentials = [atom for atom in powers if atom.function == "exp"]
    if sum(powers[atom] for atom in exponentials) > 1 or len(exponentials) > 1:
        for atom in exponentials:
            assert atom.argument is not None
            exponent += atom.argument.scaled(powers.pop(atom))
        for term in exp(exponent).terms:
            coefficient *= term.coefficient
            powers.update(term.factors)
    return Term(coefficient, tuple(sorted(powers.items(), key=lambda item: (item[0].key, repr(item[0])))))


X = Form((Term(1.0, ((Atom("x"), 1),)),))


def number(value: float) -> Form:
    """A constant."""
    return _collected([Term(float(value))])


def atom(function: str, argument: Form, *parameters: float) -> Form:
    """A function of a form that nothing more is known about; of a constant, a constant."""
    if not argument.variable.terms:
        with np.errstate(all="ignore"):
            return number(_VALUES[function](np.float64(argument.constant), *parameters))
    return Form((Term(1.0, ((Atom(function, argument, parameters), 1),)),))


def exp(u: Form) -> Form:
    """exp(u); what is constant in u becomes a factor."""
    try:
        factor = math.exp(u.constant)
    except OverflowError:
        raise NoForm from None
    return atom("exp", u.variable).scaled(factor)


def _is_negative(u: Form) -> bool:
    """True for one of u and -u."""
    terms = u.variable.terms or u.terms
    return bool(terms) and terms[0].coefficient < 0


def erf(u: Form) -> Form:
    """The error function, an odd one."""
    return erf(u.scaled(-1)).scaled(-1) if _is_negative(u) else atom("erf", u)


def sigmoid(u: Form) -> Form:
    """1 / (1 + exp(-u)); sigmoid(-u) is 1 - sigmoid(u)."""
    if _is_negative(u):
        return number(1) + sigmoid(u.scaled(-1)).scaled(-1)
    return atom("sigmoid", u)


def tanh(u: Form) -> Form:
    """By the sigmoid."""
    return sigmoid(u.scaled(2)).scaled(2) + number(-1)


def softplus(u: Form) -> Form:
    """log(1 + exp(u)); softplus(-u) is softplus(u) - u."""
    return u + softplus(u.scaled(-1)) if _is_negative(u) else atom("softplus", u)


def log(u: Form) -> Form:
    """The logarithm, of a sigmoid or of a + b exp(v) a softplus."""
    scale, exponent = _inverse_sigmoid(u) or (0.0, None)
    if exponent is not None:  # u = scale sigmoid(exponent)
        return number(math.log(scale)) + softplus(exponent.scaled(-1)).scaled(-1)
    if two := _two_exponentials(u):
        (a, v), (b, w) = two
        return number(math.log(a)) + v + softplus(w + v.scaled(-1) + number(math.log(b / a)))
    return atom("log", u)


def power(u: Form, exponent: float) -> Form:
    """A power; one that is no whole number is left as it is."""
    if exponent != int(exponent) or abs(exponent) > _HIGHEST_POWER:
        return atom("power", u, exponent)
    if exponent < 0:
        return power(_reciprocal(u), -exponent)
    result = number(1)
    for _ in range(int(exponent)):
        result *= u
    return result


def _reciprocal(u: Form) -> Form:
    """1 / u; of a + b exp(v) a sigmoid."""
    if not u.terms:
        raise NoForm
    if two := _two_exponentials(u):
        (a, v), (b, w) = two
        return exp(v.scaled(-1)).scaled(1 / a) * sigmoid(v + w.scaled(-1) + number(-math.log(b / a)))
    first = u.terms[0]
    if len(u.terms) > 1:
        return atom("power", u.scaled(1 / first.coefficient), -1.0).scaled(1 / first.coefficient)
    if (exponent := _exponent(first)) is not None:
        return exp(exponent.scaled(-1)).scaled(1 / first.coefficient)
    if any(each.function == "exp" for each, _ in first.factors):
        raise NoForm
    return Form((Term(1 / first.coefficient, tuple((each, -n) for each, n in first.factors)),))


def _two_exponentials(u: Form) -> list[tuple[float, Form]] | None:
    """a, v, b, w of a exp(v) + b exp(w) with positive a and b; None if u is something else."""
    exponents = [_exponent(term) for term in u.terms]
    if len(u.terms) != 2 or any(term.coefficient < 0 for term in u.terms):
        return None
    pairs = [
        (term.coefficient, exponent)
        for term, exponent in zip(u.terms, exponents, strict=True)
        if exponent is not None
    ]
    return pairs if len(pairs) == 2 else None


def _exponent(term: Term) -> Form | None:
    """v of a exp(v); None if the term is something else."""
    if not term.factors:
        return Form()
    (first, n), *others = term.factors
    return first.argument if first.function == "exp" and n == 1 and not others else None


def _inverse_sigmoid(u: Form) -> tuple[float, Form] | None:
    """a and v of a sigmoid(v) with positive a; None if u is something else."""
    if len(u.variable.terms) != 1:
        return None
    (term,) = u.variable.terms
    ((each, n), *others) = term.factors
    if each.function != "sigmoid" or n != 1 or others or each.argument is None:
        return None
    if u.constant == 0 and term.coefficient > 0:
        return term.coefficient, each.argument
    if u.constant > 0 and u.constant == -term.coefficient:
        return u.constant, each.argument.scaled(-1)
    return None


# Of atoms, at a number.
_VALUES: dict[str, Callable[..., float]] = {
    "exp": np.exp,
    "log": np.log,
    "erf": lambda y: math.erf(y),
    "sigmoid": lambda y: 0.5 * (1 + np.tanh(0.5 * y)),
    "softplus": lambda y: np.logaddexp(y, 0),
    "power": lambda y, exponent: np.float64(y) ** exponent,
}
