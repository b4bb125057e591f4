"""Functions of one number as nodes: an activation is an operator, or the formula of its declaration."""

from __future__ import annotations

import inspect
import math

from repurpose_hpc.exporters.graph import Graph
from repurpose_hpc.model.activations import DECLARED, Activation

# Operators of activations that opset 17 does not have.
_NEWER = {"Gelu"}


class Expression:
    """A tensor in a formula; what is computed of it becomes nodes (see ``ActivationKind.formula``)."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph, self.name = graph, name

    def real(self) -> str:
        """The tensor that holds it, of real numbers."""
        return self.name

    def _node(self, operator: str, *inputs: Expression | float) -> Expression:
        names = (each.real() if isinstance(each, Expression) else self.graph.number(each) for each in inputs)
        return Expression(self.graph, self.graph.add(operator, *names))

    def __add__(self, other: Expression | float) -> Expression:
        return self._node("Add", self, other)

    def __radd__(self, other: float) -> Expression:
        return self._node("Add", other, self)

    def __mul__(self, other: Expression | float) -> Expression:
        return self._node("Mul", self, other)

    __rmul__ = __mul__

    def __neg__(self) -> Expression:
        return self._node("Neg", self)

    def __sub__(self, other: Expression | float) -> Expression:
        return self._node("Sub", self, other)

    def __rsub__(self, other: float) -> Expression:
        return self._node("Sub", other, self)

    def __truediv__(self, other: Expression | float) -> Expression:
        return self._node("Div", self, other)

    def __pow__(self, exponent: float) -> Expression:
        return self._node("Pow", self, exponent)

    def exp(self) -> Expression:
        """The exponential function."""
        return self._node("Exp", self)

    def log(self) -> Expression:
        """The logarithm."""
        return self._node("Log", self)

    def erf(self) -> Expression:
        """The error function."""
        return self._node("Erf", self)

    def sigmoid(self) -> Expression:
        """The sigmoid."""
        return self._node("Sigmoid", self)

    def tanh(self) -> Expression:
        """The hyperbolic tangent."""
        return self._node("Tanh", self)

    def softplus(self) -> Expression:
        """The softplus."""
        return self._node("Softplus", self)

    def sign(self) -> Expression:
        """-1, 0 or 1."""
        return self._node("Sign", self)

    def is_greater(self, threshold: float) -> Truth:
        """Whether it is above a threshold."""
        return Truth(self.graph, self._node("Greater", self, threshold).name)

    def is_less(self, threshold: float) -> Truth:
        """Whether it is below a threshold."""
        return Truth(self.graph, self._node("Less", self, threshold).name)

    def clip(self, low: float, high: float) -> Expression:
        """Between two numbers; the larger one wins."""
        bounds = (self.graph.number(each) if math.isfinite(each) else "" for each in (low, high))
        return Expression(self.graph, self.graph.add("Clip", self.name, *bounds))


class Truth(Expression):
    """A truth value, which counts as 1 or 0."""

    def real(self) -> str:
        """See ``Expression``."""
        return self.graph.cast(self.name)

    def choose(self, if_true: Expression, if_false: Expression) -> Expression:
        """One of two, by what this says."""
        return Expression(self.graph, self.graph.add("Where", self.name, if_true.real(), if_false.real()))


def activated(graph: Graph, name: str, activation: Activation) -> str:
    """The activation of a tensor."""
    kind = DECLARED[activation.kind]
    parameters = (activation.alpha, activation.beta)
    for operator, meaning in kind.onnx.items():
        attributes = dict(zip(inspect.signature(meaning).parameters, parameters, strict=False))
        meant = meaning(**attributes) if _is_right(operator, attributes) else None
        if meant == parameters[: len(meant or ())]:
            return graph.add(operator, name, **attributes)
    if kind.formula is None:
        raise TypeError(f"{activation.kind}: expected an ONNX operator or a formula")
    return kind.formula(Expression(graph, name), *parameters).real()


def _is_right(operator: str, attributes: dict[str, float]) -> bool:
    """Whether runtimes compute an operator as it is meant: Celu divides by alpha."""
    return operator not in _NEWER and (operator != "Celu" or attributes["alpha"] != 0)
