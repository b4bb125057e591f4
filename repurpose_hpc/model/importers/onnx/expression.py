"""Functions of one tensor, value by value, as a graph writes them, and the activations that they are.

Exporters write one activation as several element-wise nodes (a Gelu as Div, Erf, Add, Mul, Mul), in ways
that differ by exporter and version.  An ``Expression`` keeps these steps, each of which is an operation of a
network by itself.  It is an activation if both have the same ``Pieces``; computed at many numbers in both
precisions they have to agree as well, for what is equal on paper may be something else in floating point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from repurpose_hpc.model.activations import DECLARED, Activation, activate
from repurpose_hpc.model.importers.onnx import pieces
from repurpose_hpc.model.importers.onnx.forms import NoForm
from repurpose_hpc.model.importers.onnx.pieces import Pieces
from repurpose_hpc.model.operations import COMBINATIONS

# Largest relative error of a constant of an activation, by the precision in which it is written.
_TOLERANCES = {"float16": 1e-3, "bfloat16": 8e-3}
_TOLERANCE = 1e-6

_WITHOUT_NUMBERS = (
    *(Activation(kind.name) for kind in DECLARED.values() if kind.formula and not kind.parameters),
    *(Activation(kind.name, *numbers) for kind in DECLARED.values() for numbers in kind.written_out),
)
_WITH_NUMBERS = tuple(kind for kind in DECLARED.values() if kind.with_numbers)
# Of an expression, that are tried as parameters.
_MOST_NUMBERS = 12
# Arguments at which functions are compared, besides the numbers that occur in them, and their neighbours.
_FAR = np.logspace(-6, 30, 73)
_NEAR = np.linspace(-8, 8, 65)
# Of computed values, relative where they or their arguments are larger than 1; constants have their own.
_COMPUTED_TOLERANCE: dict[type, float] = {np.float64: 1e-9, np.float32: 1e-4}


@dataclass(frozen=True, eq=False)
class Expression:
    """An element-wise function of one tensor.

    Attributes:
        tensor: the tensor, by name.
        size: its values per sample.
        function: the last step: an activation of one operand, ``scale`` or ``shift`` by a number, or a
            kind of ``COMBINATIONS``.
        operands: expressions of the same tensor, and numbers; none: the tensor itself.
        origin: the node that made it, for names and messages.
        tolerance: largest relative error of the constants in it.
        is_truth: whether it is 0 where something is false, 1 where it is true.
    """

    tensor: str
    size: int
    function: Activation | str = ""
    operands: tuple[Expression | float, ...] = ()
    origin: str = ""
    tolerance: float = _TOLERANCE
    is_truth: bool = False

    def then(self, activation: Activation, origin: str) -> Expression:
        """The activation of this expression."""
        return self._apply(activation, (self,), origin)

    def scaled(self, factor: float, origin: str) -> Expression:
        """This expression times a number."""
        return self._apply("scale", (self, float(factor)), origin)

    def shifted(self, term: float, origin: str) -> Expression:
        """This expression and a number added to it."""
        return self._apply("shift", (self, float(term)), origin)

    def combined(self, kind: str, other: Expression, origin: str) -> Expression:
        """A combination with another expression of the same tensor."""
        return self._apply(kind, (self, other), origin)

    def _apply(
        self, function: Activation | str, operands: tuple[Expression | float, ...], origin: str
    ) -> Expression:
        tolerance = max(operand.tolerance for operand in operands if isinstance(operand, Expression))
        return Expression(self.tensor, self.size, function, operands, origin, tolerance)

    def of_precision(self, dtype: str) -> Expression:
        """The same with a constant in it that is written in ``dtype``."""
        return replace(self, tolerance=max(self.tolerance, _TOLERANCES.get(dtype, 0.0)))

    @property
    def operand(self) -> Expression:
        """The first operand, an expression always."""
        operand = self.operands[0]
        assert isinstance(operand, Expression)
        return operand

    def of(self, tensor: str, size: int) -> Expression:
        """The same function of another tensor."""
        operands = tuple(
            operand.of(tensor, size) if isinstance(operand, Expression) else operand
            for operand in self.operands
        )
        return replace(self, tensor=tensor, size=size, operands=operands)

    def activation(self) -> Activation | None:
        """The single activation of the tensor that this is; None if there is none."""
        if isinstance(self.function, Activation) and not self.operand.operands:
            return self.function
        if self.pieces is None:
            return None
        function = self.pieces.simplified(self.tolerance)
        x = _arguments(self.numbers | function.numbers)
        values = {dtype: self.values(x.astype(dtype)) for dtype in _COMPUTED_TOLERANCE}
        for candidate in _candidates(function, self.numbers):
            if _agree(candidate, values, x, self.tolerance) and _is(candidate, function, self.tolerance):
                return candidate
        return None

    @cached_property
    def pieces(self) -> Pieces | None:
        """The function in pieces; None where that cannot be told."""
        if not self.operands:
            return pieces.IDENTITY
        operands: list[Pieces | float] = []
        for operand in self.operands:
            each = operand.pieces if isinstance(operand, Expression) else operand
            if each is None:
                return None
            operands.append(each)
        try:
            return _pieces(self.function, *operands)
        except (NoForm, OverflowError):
            return None

    @cached_property
    def numbers(self) -> frozenset[float]:
        """Numbers that occur in the expression."""
        numbers: set[float] = set()
        for operand in self.operands:
            numbers |= operand.numbers if isinstance(operand, Expression) else {operand}
        if isinstance(self.function, Activation):
            parameters = (self.function.alpha, self.function.beta)
            numbers |= {*parameters[: len(DECLARED[self.function.kind].parameters)]}
        return frozenset(numbers)

    def values(self, x: np.ndarray) -> np.ndarray:
        """The function of numbers, step by step in their precision; NaN where digits are lost near 0."""
        known: dict[Expression, np.ndarray] = {}
        with np.errstate(all="ignore"):
            return self._values(x, known)

    def _values(self, x: np.ndarray, known: dict[Expression, np.ndarray]) -> np.ndarray:
        if not self.operands:
            return x
        if self not in known:
            operands = [
                operand._values(x, known) if isinstance(operand, Expression) else x.dtype.type(operand)
                for operand in self.operands
            ]
            known[self] = _without_subnormal(_value(self.function, *operands))
        return known[self]


def _candidates(function: Pieces, written: frozenset[float]) -> Iterator[Activation]:
    """Activations that a function may be, those with parameters last."""
    yield from _WITHOUT_NUMBERS
    numbers = sorted(written | function.numbers)
    if not function.breaks or len(numbers) > _MOST_NUMBERS:
        return
    for kind in _WITH_NUMBERS:
        ranges = (
            [*numbers, *(bound for bound in (parameter.low, parameter.high) if math.isinf(bound))]
            for parameter in kind.parameters
        )
        activations = (Activation(kind.name, *parameters) for parameters in product(*ranges))
        yield from (activation for activation in activations if not any(activation.faults()))


def _is(candidate: Activation, function: Pieces, tolerance: float) -> bool:
    """True if an activation has these pieces."""
    try:
        return function.equals(_pieces(candidate, pieces.IDENTITY), tolerance)
    except (NoForm, OverflowError):
        return False


def _pieces(function: Activation | str, first: Pieces | float, *others: Pieces | float) -> Pieces:
    assert isinstance(first, Pieces)
    if isinstance(function, Activation):
        formula = DECLARED[function.kind].formula
        if formula is None:
            raise NoForm
        return formula(first, function.alpha, function.beta)
    (second,) = others
    return _PIECES_OF[function](first, second)


# By the function of two operands, of both.
_PIECES_OF: dict[str, Callable[[Pieces, Any], Pieces]] = {
    **dict.fromkeys(("scale", "multiply"), lambda left, right: left * right),
    **dict.fromkeys(("shift", "add"), lambda left, right: left + right),
    "subtract": lambda left, right: left - right,
    "divide": lambda left, right: left / right,
    "maximum": lambda left, right: (left - right).is_less(0).choose(right, left),
    "minimum": lambda left, right: (left - right).is_greater(0).choose(right, left),
    "mask": lambda left, right: left.choose(right, pieces.constant(0)),
}


def _value(function: Activation | str, *operands: np.ndarray) -> np.ndarray:
    if isinstance(function, Activation):
        (x,) = operands
        # By tanh, a sigmoid has no digits left where it is close to 0 and a logarithm follows.
        return np.exp(-np.logaddexp(0, -x)) if function.kind == "sigmoid" else activate(function, x)
    left, right = operands
    kind = {"scale": "multiply", "shift": "add"}.get(function, function)
    values = COMBINATIONS[kind].value(left, right)
    return np.where(np.isnan(left), left, values) if kind == "mask" else values


def _without_subnormal(values: np.ndarray) -> np.ndarray:
    is_subnormal = (values != 0) & (np.abs(values) < np.finfo(values.dtype).tiny)
    return np.where(is_subnormal, values.dtype.type(np.nan), values)


def _arguments(numbers: frozenset[float]) -> np.ndarray:
    """Numbers near and far, of both signs; those given and their neighbours in both precisions."""
    near = np.array(sorted({0.0, *numbers}))
    near = np.unique(near[np.abs(near) < 1e30])
    with np.errstate(all="ignore"):
        single = near.astype(np.float32)
    neighbours = [
        np.nextafter(each, each.dtype.type(end)) for each in (near, single) for end in (-np.inf, np.inf)
    ]
    positive = np.abs(np.concatenate([_FAR, near, single, *neighbours]))
    return np.unique([*_NEAR, *positive, *-positive])


def _agree(candidate: Activation, values: dict[type, np.ndarray], x: np.ndarray, tolerance: float) -> bool:
    """True if an activation has these values, in both precisions, wherever they are finite."""
    for dtype, of_expression in values.items():
        arguments: np.ndarray = x.astype(dtype)
        with np.errstate(all="ignore"):
            of_candidate = activate(candidate, arguments)
            scale = np.maximum(1, np.maximum(np.abs(arguments), np.abs(of_expression)))
            error = np.abs(of_candidate - of_expression) / scale
        finite = np.isfinite(of_expression)
        allowed = max(_COMPUTED_TOLERANCE[dtype], 4 * tolerance)
        if not (error[finite] <= allowed).all():
            return False
    return True
