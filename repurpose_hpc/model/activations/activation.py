"""Element-wise functions of one number: how one is declared, named, computed and differentiated."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

# Of the argument, alpha and beta.
Function = Callable[..., np.ndarray]
# Of a symbolic argument, alpha and beta; see ``ActivationKind``.
Formula = Callable[[Any, float, float], Any]

_LARGEST = sys.float_info.max


class Piece(NamedTuple):
    """An interval, both ends included, on which a function is a straight line.

    Attributes:
        low, high: the ends, which may be infinite.
        slope, shift: of the line slope y + shift.
    """

    low: float
    high: float
    slope: float
    shift: float


class Parameter(NamedTuple):
    """A parameter of a kind, alpha the first and beta the second.

    Attributes:
        name: in words that are part of a chain file's documentation, such as ``slope``.
        low, high: the range, both ends included; all finite numbers if it says nothing else.
        default: of chain files; None: it has to be written.
    """

    name: str
    low: float = -_LARGEST
    high: float = _LARGEST
    default: float | None = None


@dataclass(frozen=True, eq=False)
class ActivationKind:
    """The declaration of an element-wise function; ``kernels.activations`` has a compiled twin of its name.

    Attributes:
        name: unique.
        value: the function in NumPy; NaN stays NaN.
        slope: its derivative; at a kink that of one side.
        lipschitz: the largest slope L, |f(a) − f(b)| <= L |a − b|, infinite where there is none: a number, or
            a function of alpha and beta.
        parameters: at most two; alpha and beta of an activation without any are ignored.
        onnx: ONNX operators that are this function: from their attributes, by name and with the defaults of
            ONNX, the parameters, or None where they make it another function.
        formula: the function in terms of a symbolic argument (``importers.onnx.pieces``), so that it is
            recognised where it is written as several nodes; None: it never is.
        written_out: parameters with which exporters are known to write it as several nodes.
        with_numbers: whether a function written out is compared with it, with all numbers that occur in it
            as parameters.
        pieces: of alpha and beta: where the function is a straight line, piece after piece from the lowest
            on; None: nowhere, as far as is known.
        range: of all values: lowest and highest, or a function of alpha and beta.
        is_truth: whether all values are 0 or 1.
    """

    name: str
    value: Function
    slope: Function
    lipschitz: float | Callable[[float, float], float] = 1.0
    parameters: tuple[Parameter, ...] = ()
    onnx: Mapping[str, Callable[..., tuple[float, ...] | None]] = field(default_factory=dict)
    formula: Formula | None = None
    written_out: tuple[tuple[float, ...], ...] = ()
    with_numbers: bool = False
    pieces: Callable[[float, float], tuple[Piece, ...]] | None = None
    range: tuple[float, float] | Callable[[float, float], tuple[float, float]] = (-math.inf, math.inf)
    is_truth: bool = False

    @property
    def form(self) -> str:
        """The entry in a chain file, such as ``leaky_relu:SLOPE``; what may be left out is in brackets."""
        form, closing = self.name, ""
        for parameter in self.parameters:
            optional = parameter.default is not None
            form += f"{'[' if optional else ''}:{parameter.name.upper().replace(' ', '_')}"
            closing += "]" if optional else ""
        return form + closing


# By name, in the order of declaration; filled by ``functions``.
DECLARED: dict[str, ActivationKind] = {}


def declare(kind: ActivationKind) -> ActivationKind:
    """Enter a kind into ``DECLARED``."""
    DECLARED[kind.name] = kind
    return kind


@dataclass(frozen=True)
class Activation:
    """An element-wise function.

    Attributes:
        kind: one of ``KINDS``.
        alpha, beta: the parameters that the kind declares; kinds without any ignore them.
    """

    kind: str
    alpha: float = 0.0
    beta: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in DECLARED:
            raise ValueError(f"unknown activation {self.kind!r}, expected one of {', '.join(DECLARED)}")

    def faults(self) -> Iterator[str]:
        """Parameters out of their ranges, in words."""
        numbers = (self.alpha, self.beta)
        for parameter, value in zip(DECLARED[self.kind].parameters, numbers, strict=False):
            if not parameter.low <= value <= parameter.high:
                low, high = parameter.low, parameter.high
                yield f"{self.kind} with {parameter.name} {value}, expected a number from {low:g} to {high:g}"


def activate(activation: Activation, y: np.ndarray) -> np.ndarray:
    """The activation of ``y``, same shape and dtype; NaN stays NaN.

    What has no value, or a too large one, is NaN or infinite without a warning: a condition may leave it out.
    """
    with np.errstate(all="ignore"):
        return DECLARED[activation.kind].value(y, *_parameters(activation, y))


def derivative(activation: Activation, y: np.ndarray) -> np.ndarray:
    """The derivative of the activation at ``y``, same shape and dtype."""
    with np.errstate(all="ignore"):
        return DECLARED[activation.kind].slope(y, *_parameters(activation, y))


def lipschitz(activation: Activation) -> float:
    """The largest slope L of the activation: |f(a) − f(b)| <= L |a − b|; infinite where there is none."""
    constant = DECLARED[activation.kind].lipschitz
    return constant if isinstance(constant, float) else constant(activation.alpha, activation.beta)


def pieces(activation: Activation) -> tuple[Piece, ...]:
    """Where the activation is a straight line; see ``ActivationKind``."""
    declared = DECLARED[activation.kind].pieces
    return () if declared is None else declared(activation.alpha, activation.beta)


def is_homogeneous(activation: Activation) -> bool:
    """Whether f(s y) = s f(y) for every s > 0: straight through 0 on either side of it."""
    lines = pieces(activation)
    ends = {end for line in lines for end in (line.low, line.high)}
    return {-math.inf, math.inf} <= ends <= {-math.inf, 0.0, math.inf} and not any(
        line.shift for line in lines
    )


def is_truth(activation: Activation) -> bool:
    """Whether all values of the activation are 0 or 1."""
    return DECLARED[activation.kind].is_truth


def value_range(activation: Activation) -> tuple[float, float]:
    """The lowest and the highest value that the activation can have, or numbers beyond them."""
    declared = DECLARED[activation.kind].range
    return declared if isinstance(declared, tuple) else declared(activation.alpha, activation.beta)


def image(activation: Activation, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the values on the intervals from ``low`` to ``high``, both (n,), in float64.

    Those of ``range`` unless pieces cover the interval.
    """
    lowest, highest = (np.full(low.shape, end) for end in value_range(activation))
    lines = pieces(activation)
    if not lines:
        return lowest, highest
    ends = np.full((2, *low.shape), np.array([[math.inf], [-math.inf]]))
    for line in lines:
        first, last = np.maximum(low, line.low), np.minimum(high, line.high)
        met = np.flatnonzero(first <= last)
        values = line.shift + (
            np.zeros((2, met.size)) if not line.slope else line.slope * np.stack([first[met], last[met]])
        )
        ends[0, met] = np.minimum(ends[0, met], values.min(axis=0))
        ends[1, met] = np.maximum(ends[1, met], values.max(axis=0))
    is_covered = (low >= lines[0].low) & (high <= lines[-1].high)
    return np.where(is_covered, ends[0], lowest), np.where(is_covered, ends[1], highest)


def parse(text: str) -> Activation:
    """The activation that an entry of a chain file names, such as ``leaky_relu:0.01``.

    Raises:
        ValueError: no such kind, a parameter too many, missing, no number or out of its range.
    """
    name, *numbers = text.split(":")
    if name not in DECLARED:
        raise ValueError(f"unknown activation {name!r}")
    kind = DECLARED[name]
    defaults = [parameter.default for parameter in kind.parameters[len(numbers) :]]
    if len(numbers) > len(kind.parameters) or None in defaults:
        raise ValueError(f"expected {kind.form}")
    try:
        values = [float(number) for number in numbers] + [
            default for default in defaults if default is not None
        ]
    except ValueError:
        raise ValueError(f"expected {kind.form} with numbers") from None
    activation = Activation(name, *values)
    for fault in activation.faults():
        raise ValueError(fault)
    return activation


def _parameters(activation: Activation, y: np.ndarray) -> tuple[np.floating, np.floating]:
    """alpha and beta in the precision of ``y``, so that they do not change it."""
    return y.dtype.type(activation.alpha), y.dtype.type(activation.beta)
