"""The declarations of elementary functions, which networks use step by step, in plain NumPy.

What ``functions`` says about a new one holds here, too.
"""

from __future__ import annotations

import math

import numpy as np

from repurpose_hpc.model.activations.activation import (
    DECLARED,
    ActivationKind,
    Formula,
    Function,
    Parameter,
    declare,
)
from repurpose_hpc.model.activations.functions import erf


def _steps(name: str, operator: str, function: Function, formula: Formula | None = None) -> None:
    """Declare a function that is level between its jumps."""
    declare(
        ActivationKind(
            name,
            value=lambda y, a, b: function(y),
            slope=lambda y, a, b: y * 0,  # NaN stays NaN
            formula=formula,
            lipschitz=math.inf,
            onnx={operator: lambda: ()},
        )
    )


def _smooth(
    name: str,
    operator: str,
    function: Function,
    slope: Function,
    formula: Formula | None = None,
    lipschitz: float = math.inf,
) -> None:
    """Declare a function without parameters that has a slope wherever it has a value."""
    declare(
        ActivationKind(
            name,
            value=lambda y, a, b: function(y),
            slope=lambda y, a, b: slope(y),
            formula=formula,
            lipschitz=lipschitz,
            onnx={operator: lambda: ()},
        )
    )


def _truth(name: str, relation: Function, formula: Formula) -> None:
    """Declare a comparison with a number: 1 where it is true, 0 elsewhere."""
    declare(
        ActivationKind(
            name,
            value=lambda y, a, b: np.where(np.isnan(y), y, relation(y, a).astype(y.dtype)),
            slope=lambda y, a, b: y * 0,
            formula=formula,
            lipschitz=math.inf,
            range=(0.0, 1.0),
            is_truth=True,
            parameters=(Parameter("threshold"),),
            with_numbers=True,
        )
    )


def _without_domain(slope: Function, low: float, high: float) -> Function:
    """``slope``, NaN where the function itself has no value."""
    return lambda y: np.where((y >= low) & (y <= high), slope(y), y.dtype.type(math.nan))


_steps("round", "Round", np.rint)  # halves to even
_steps("floor", "Floor", np.floor)
_steps("ceil", "Ceil", np.ceil)
_steps("sign", "Sign", np.sign, lambda x, a, b: x.sign())
_smooth("sin", "Sin", np.sin, np.cos, lipschitz=1.0)
_smooth("cos", "Cos", np.cos, lambda y: -np.sin(y), lipschitz=1.0)
_smooth("tan", "Tan", np.tan, lambda y: 1 + np.tan(y) ** 2)
_smooth("sinh", "Sinh", np.sinh, np.cosh)
_smooth("cosh", "Cosh", np.cosh, np.sinh)
_smooth("asin", "Asin", np.arcsin, lambda y: (1 - y * y) ** -0.5)
_smooth("acos", "Acos", np.arccos, lambda y: -((1 - y * y) ** -0.5))
_smooth("atan", "Atan", np.arctan, lambda y: 1 / (1 + y * y), lipschitz=1.0)
_smooth("asinh", "Asinh", np.arcsinh, lambda y: (1 + y * y) ** -0.5, lipschitz=1.0)
_smooth("acosh", "Acosh", np.arccosh, _without_domain(lambda y: (y * y - 1) ** -0.5, 1, math.inf))
_smooth("atanh", "Atanh", np.arctanh, _without_domain(lambda y: 1 / (1 - y * y), -1, 1))
_smooth("log", "Log", np.log, _without_domain(lambda y: 1 / y, 0, math.inf), lambda x, a, b: x.log())
_smooth(
    "erf",
    "Erf",
    erf,
    lambda y: y.dtype.type(2 / math.sqrt(math.pi)) * np.exp(-y * y),
    lambda x, a, b: x.erf(),
    lipschitz=2 / math.sqrt(math.pi),
)
_truth("greater", np.greater, lambda x, a, b: x.is_greater(a))
_truth("greater_equal", np.greater_equal, lambda x, a, b: 1 - x.is_less(a))
_truth("equal", np.equal, lambda x, a, b: 1 - x.is_greater(a) - x.is_less(a))

KINDS = tuple(DECLARED)
