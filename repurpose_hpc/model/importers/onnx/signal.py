"""Knowledge of the ONNX importer about a value that depends on the network's input.

Exporters write one activation as several element-wise nodes (a Gelu as Div, Erf, Add, Mul, Mul), in ways
that differ by exporter and version.  So an ``Expression`` also carries its values over a grid of arguments
(its *curve*); every such node is applied to the curve, and whoever needs to know compares it with the
activations there are.  The form in which the exporter wrote it does not matter.

A ``Signal`` is an expression with the shape that it has in ONNX: where each of its values lies in the
neuron-major tensor.  Reshaping and transposing change this *index* alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from repurpose_hpc.model.activations import DECLARED, Activation, activate, lipschitz
from repurpose_hpc.model.importers.onnx.varying import Varying

_FAR = (12.0, 16.0, 32.0, 64.0, 100.0)
GRID = np.array([*(-far for far in reversed(_FAR)), *np.linspace(-8, 8, 257), *_FAR])
_CANDIDATES = (
    *(Activation(kind.name) for kind in DECLARED.values() if not kind.parameters),
    *(Activation(kind.name, *numbers) for kind in DECLARED.values() for numbers in kind.written_out),
)
# Of an expression, that are tried as parameters.
_MOST_NUMBERS = 8

# Largest difference of a curve from the activation it is taken for, by the precision of its
# constants, relative where values are larger than 1.  Gelu and its tanh approximation are 5e-4 apart.
SINGLE_PRECISION_TOLERANCE = 1e-6
HALF_PRECISION_TOLERANCE = 2e-4


class Unsupported(Exception):
    """Refusal of something that cannot be represented; the message says what was found."""


@dataclass(frozen=True, eq=False)
class Expression:
    """An element-wise function of one tensor.

    Attributes:
        tensor: the tensor, by name.
        size: its values per sample.
        grid: arguments: ``GRID``, and the numbers with which the graph compares.
        curve: values of the function at ``grid``.
        tolerance: largest error to be expected of ``curve``.
        function: the last step: an activation of one operand, or the name of an operator.
        operands: expressions of the same tensor, and numbers; none: the tensor itself.
        origin: the node that made it, for names and messages.
    """

    tensor: str
    size: int
    grid: np.ndarray
    curve: np.ndarray
    tolerance: float = SINGLE_PRECISION_TOLERANCE
    function: Activation | str = ""
    operands: tuple[Expression | float, ...] = ()
    origin: str = ""

    def apply(
        self, operator: str, curve: np.ndarray, other_operands: tuple[Expression | float, ...], origin: str
    ) -> Expression:
        """The expression that an operator makes of this one, and perhaps of others; ``curve``: its values."""
        operands = (self, *other_operands)
        tolerance = max(operand.tolerance for operand in operands if isinstance(operand, Expression))
        return replace(
            self, curve=curve, tolerance=tolerance, function=operator, operands=operands, origin=origin
        )

    def then(self, activation: Activation, origin: str) -> Expression:
        """The activation of this expression."""
        with np.errstate(all="ignore"):
            curve = activate(activation, self.curve)
        return replace(self, curve=curve, function=activation, operands=(self,), origin=origin)

    def activation(self) -> Activation | None:
        """The single activation of the tensor that this is; None if there is none."""
        if isinstance(self.function, Activation) and not self.operand.operands:
            return self.function
        if self.curve.dtype == bool:
            return None
        candidates = [*_CANDIDATES, *self._with_numbers()]
        scale = np.maximum(1, np.abs(self.grid))
        with np.errstate(all="ignore"):
            curves = (activate(candidate, self.grid) for candidate in candidates)
            differences = [np.abs((self.curve - curve) / scale).max() for curve in curves]
        differences = np.nan_to_num(differences, nan=math.inf).tolist()  # from a division by zero
        nearest = int(np.argmin(differences))
        return candidates[nearest] if differences[nearest] <= self.tolerance else None

    @property
    def operand(self) -> Expression:
        """The first operand, an expression always."""
        operand = self.operands[0]
        assert isinstance(operand, Expression)
        return operand

    def numbers(self) -> set[float]:
        """Numbers that occur in the expression."""
        numbers: set[float] = set()
        for operand in self.operands:
            numbers |= operand.numbers() if isinstance(operand, Expression) else {operand}
        return numbers

    def _with_numbers(self) -> Iterator[Activation]:
        """Activations whose parameters are numbers that occur in the expression."""
        kinds = [kind for kind in DECLARED.values() if kind.with_numbers]
        numbers = sorted(self.numbers()) if kinds else []
        if len(numbers) > _MOST_NUMBERS:
            return
        for kind in kinds:
            for parameters in product(numbers, repeat=len(kind.parameters)):
                activation = Activation(kind.name, *parameters)
                if any(activation.faults()):
                    continue
                # Which side of a jump the number itself belongs to can be seen on the grid alone.
                if math.isfinite(lipschitz(activation)) or parameters[0] in self.grid:
                    yield activation


@dataclass(frozen=True, eq=False)
class Signal:
    """A value of the graph.

    Attributes:
        expression: what is computed.
        shape: in ONNX, the samples on the first axis.
        index: of every value of a sample, its place in the neuron-major tensor, int64 of shape
            ``shape[1:]``; None: all values in their order.
        head: Softmax or LogSoftmax applied last.
        origin: the node that made it, for messages.
    """

    expression: Expression
    shape: tuple[int, ...]
    index: np.ndarray | None = None
    head: str = "identity"
    origin: str = "the input"

    @property
    def features(self) -> int:
        """Values per sample."""
        return math.prod(self.shape[1:])

    @property
    def places(self) -> np.ndarray:
        """``index``, written out."""
        if self.index is not None:
            return self.index
        return np.arange(self.features).reshape(self.shape[1:])

    def reshaped(self, shape: tuple[int, ...]) -> Signal:
        """The same values in the same order in another shape, samples included."""
        index = None if self.index is None else self.index.reshape(shape[1:])
        return replace(self, shape=shape, index=index)

    def placed(self, index: np.ndarray) -> Signal:
        """Other values of the same tensor, see ``index``."""
        is_whole = index.size == self.expression.size and np.array_equal(index.ravel(), np.arange(index.size))
        shape = (self.shape[0], *index.shape)
        return replace(self, shape=shape, index=None if is_whole else np.ascontiguousarray(index))

    def is_permuted(self) -> bool:
        """True if every value of the tensor is there once, in whatever order."""
        if self.index is None:
            return True
        size = self.expression.size
        return self.index.size == size and np.array_equal(np.sort(self.index, axis=None), np.arange(size))

    def lies_like(self, other: Signal) -> bool:
        """True if the values of both lie at the same places of their tensors."""
        if self.shape != other.shape:
            return False
        if self.index is None or other.index is None:
            return self.index is other.index
        return self.index is other.index or np.array_equal(self.index, other.index)


@dataclass(frozen=True, eq=False)
class Moved:
    """A value of the graph whose samples are not alone on the first axis.

    Recurrent layers have them behind the steps, (S, N, F), and exporters put them on one axis with the
    positions, (N·S, F), before a layer that acts position by position.

    Attributes:
        signal: the same values with the samples in front.
        axis: how many axes of a sample are before the samples.
        shape: in ONNX: that of the values in this order, or any other of as many.
    """

    signal: Signal
    axis: int
    shape: tuple[int, ...]

    @property
    def is_aligned(self) -> bool:
        """True if the samples have an axis of their own."""
        samples, *sizes = self.signal.shape
        return self.shape == (*sizes[: self.axis], samples, *sizes[self.axis :])


Value = Signal | Moved | np.ndarray | Varying
