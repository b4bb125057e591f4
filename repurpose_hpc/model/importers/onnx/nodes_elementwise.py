"""ONNX operators value by value: activations, constants for each neuron, two values of the graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce

import numpy as np

from repurpose_hpc.model.activations import DECLARED, Activation, ActivationKind
from repurpose_hpc.model.importers.arrays import as_weights, is_half
from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.signal import (
    HALF_PRECISION_TOLERANCE,
    SINGLE_PRECISION_TOLERANCE,
    Expression,
    Signal,
    Unsupported,
    Value,
)
from repurpose_hpc.model.importers.onnx.tensors import COMBINATION_OF
from repurpose_hpc.model.operations import COMBINATIONS

# Operators on values and a number that give truth values.
COMPARISONS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")


def _with_expression(node: Node, signal: Signal, expression: Expression) -> Signal:
    return replace(signal, expression=expression, origin=str(node))


def activation(node: Node) -> Signal:
    """An operator that is an activation by itself."""
    signal = node.signal()
    return _with_expression(node, signal, signal.expression.then(_activation(node), node.name))


def _activation(node: Node) -> Activation:
    """The activation that an operator with these attributes is."""
    for kind in _ACTIVATIONS[node.operator]:
        parameters = kind.onnx[node.operator](**node.attributes)
        if parameters is not None:
            return Activation(kind.name, *parameters)
    attributes = ", ".join(
        f"{name} {value.decode() if isinstance(value, bytes) else value}"
        for name, value in node.attributes.items()
    )
    names = " nor ".join(kind.name for kind in _ACTIVATIONS[node.operator])
    raise Unsupported(f"with the attributes {attributes} it is not {names}")


# By operator, the activations that it may be.
_ACTIVATIONS: dict[str, list[ActivationKind]] = {}
for _kind in DECLARED.values():
    for _operator in _kind.onnx:
        _ACTIVATIONS.setdefault(_operator, []).append(_kind)
# By operator and the kind that it is applied to, the kind that both make.
_COMPOSITIONS = {kind.composed_of: kind.name for kind in DECLARED.values() if kind.composed_of is not None}


def clip(node: Node) -> Signal:
    """Bounds that are attributes in older opsets and inputs in newer ones."""
    signal = node.signal()
    low, high = (
        node.number(position, node.attributes.get(name, default))
        for position, name, default in ((1, "min", -np.inf), (2, "max", np.inf))
    )
    expression = signal.expression.then(Activation("clip", low, high), node.name)
    return _with_expression(node, signal, expression)


def unary(node: Node) -> Signal:
    """An operator that is no activation, but may be part of one that is written out."""
    signal = node.signal()
    expression = signal.expression
    if node.operator == "Neg":
        return _with_expression(node, signal, _scaled(expression, -1.0, node.name))
    function = expression.function
    if isinstance(function, Activation) and (node.operator, function.kind) in _COMPOSITIONS:
        kind = _COMPOSITIONS[node.operator, function.kind]
        return _with_expression(node, signal, expression.operand.then(Activation(kind), node.name))
    with np.errstate(all="ignore"):
        curve = _CURVE_OF[node.operator](expression.curve)
    return _with_expression(node, signal, expression.apply(node.operator, curve, (), node.name))


def mish(node: Node) -> Signal:
    """x tanh(softplus(x))."""
    signal = node.signal()
    x = signal.expression
    gate = x.then(Activation("softplus"), f"{node.name}.softplus").then(
        Activation("tanh"), f"{node.name}.tanh"
    )
    return _with_expression(node, signal, x.apply("Mul", x.curve * gate.curve, (gate,), node.name))


def conditional(node: Node) -> Signal:
    """Comparisons with a number, And, Or, Where: parts of activations that are written out."""
    signals = [value for value in node.inputs if isinstance(value, Signal)]
    first = signals[0].expression
    if any(
        operand.expression.tensor != first.tensor or not operand.lies_like(signals[0]) for operand in signals
    ):
        raise Unsupported("it compares or chooses between different values, which no activation does")
    operands = tuple(
        value.expression if isinstance(value, Signal) else node.number(position, 0.0)
        for position, value in enumerate(node.inputs)
    )
    curves = [operand.curve if isinstance(operand, Expression) else operand for operand in operands]
    other_operands = tuple(operand for operand in operands if operand is not first)
    return _with_expression(
        node,
        signals[0],
        first.apply(node.operator, _CURVE_OF[node.operator](*curves), other_operands, node.name),
    )


def _erf(y: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return erf(y)


_CURVE_OF: dict[str, Callable[..., np.ndarray]] = {
    **{operator: COMBINATIONS[kind].value for operator, kind in COMBINATION_OF.items()},
    **{"Erf": _erf, "Log": np.log},
    **{"Not": np.logical_not, "And": np.logical_and, "Or": np.logical_or},
    **{"Greater": np.greater, "GreaterOrEqual": np.greater_equal, "Less": np.less},
    **{"LessOrEqual": np.less_equal, "Where": np.where},
}


def arithmetic(node: Node) -> Signal | np.ndarray:
    """Add, Mul, Max and their like, of two values or more."""
    values = (
        node.signal(place) if isinstance(value, Signal) else node.constant(place)
        for place, value in enumerate(node.inputs)
    )
    return reduce(lambda left, right: _binary(node, left, right), values)


def _binary(node: Node, left: Signal | np.ndarray, right: Signal | np.ndarray) -> Signal | np.ndarray:
    if isinstance(left, Signal) and isinstance(right, Signal):
        return _of_two_signals(node, left, right)
    if isinstance(left, Signal):
        assert isinstance(right, np.ndarray)
        return _of_signal_and_constant(node, left, right, False)
    if isinstance(right, Signal):
        return _of_signal_and_constant(node, right, left, True)
    return _CURVE_OF[node.operator](left, right)  # two constants among the inputs of a Sum


def _of_signal_and_constant(node: Node, signal: Signal, constant: np.ndarray, swapped: bool) -> Signal:
    """An operator on a signal and a constant; ``swapped``: the constant comes first."""
    if constant.ndim > len(signal.shape):
        raise Unsupported(f"a constant of shape {constant.shape} would change the shape {signal.shape[1:]}")
    if constant.size == 1:
        return _with_expression(node, signal, _with_number(node, signal.expression, constant, swapped))
    return _with_constant(node, signal, constant, swapped)


def _with_number(node: Node, expression: Expression, constant: np.ndarray, swapped: bool) -> Expression:
    """An operator on an expression and a number; ``swapped``: the number comes first."""
    number, name = float(constant.item()), node.name
    expression = replace(
        expression,
        tolerance=max(
            expression.tolerance,
            HALF_PRECISION_TOLERANCE if is_half(constant) else SINGLE_PRECISION_TOLERANCE,
        ),
    )
    if node.operator in ("Add", "Sum"):
        return _shifted(expression, number, name)
    if node.operator == "Sub":
        return (
            _shifted(_scaled(expression, -1.0, name), number, name)
            if swapped
            else _shifted(expression, -number, name)
        )
    if node.operator == "Mul":
        return _scaled(expression, number, name)
    if node.operator == "Div":
        with np.errstate(all="ignore"):
            return (
                _scaled(expression.then(Activation("power", -1.0), name), number, name)
                if swapped
                else _scaled(expression, float(np.divide(1.0, number)), name)
            )
    return expression.then(_power_or_bound(node, number, swapped), name)


def _power_or_bound(node: Node, number: float, swapped: bool) -> Activation:
    if node.operator == "Max":
        return Activation("clip", number, np.inf)
    if node.operator == "Min":
        return Activation("clip", -np.inf, number)
    if swapped:
        raise Unsupported("its exponent is not a constant")
    return Activation("square") if number == 2 else Activation("power", number)


def _scaled(expression: Expression, factor: float, origin: str) -> Expression:
    return expression.apply("Mul", expression.curve * factor, (factor,), origin)


def _shifted(expression: Expression, term: float, origin: str) -> Expression:
    return expression.apply("Add", expression.curve + term, (term,), origin)


def _with_constant(node: Node, signal: Signal, constant: np.ndarray, swapped: bool) -> Signal:
    """A scale and a shift that differ from neuron to neuron, or from value to value."""
    if constant.dtype.kind in "iu" and node.operator in ("Add", "Sub", "Mul", "Sum"):
        constant = constant.astype(np.float64)  # integers of a quantised model are numbers like others
    constant = as_weights(constant, "a constant among its inputs")
    zero, one = constant.dtype.type(0), constant.dtype.type(1)
    if node.operator in ("Add", "Sum"):
        return affine(node, signal, one, constant)
    if node.operator == "Sub":
        return affine(node, signal, -one, constant) if swapped else affine(node, signal, one, -constant)
    if node.operator == "Mul":
        return affine(node, signal, constant, zero)
    if node.operator == "Div":
        if not swapped:
            return affine(node, signal, 1 / constant, zero)
        inverse = signal.expression.then(Activation("power", -1.0), node.name)
        return affine(node, _with_expression(node, signal, inverse), constant, zero)
    raise Unsupported(f"its constant of shape {constant.shape} is not one number")


def affine(node: Node, signal: Signal, scale: np.ndarray, shift: np.ndarray) -> Signal:
    """scale * signal + shift, both of shapes that can be broadcast to that of ``signal``."""
    tensors = node.tensors
    signal = tensors.compact(signal)
    try:
        scale, shift = tensors.values(signal, scale), tensors.values(signal, shift)
    except ValueError:
        shapes = ", ".join(str(np.shape(constant)) for constant in (scale, shift) if np.ndim(constant))
        raise Unsupported(
            f"a constant of shape {shapes} does not fit features of shape {signal.shape[1:]}"
        ) from None
    target = tensors.builder.affine(tensors.name(node.name), signal.expression.tensor, scale, shift)
    return _with_expression(node, signal, tensors.expression(target, signal.expression.size))


def batch_normalisation(node: Node) -> Signal:
    """The scale and the shift that the statistics of training amount to."""
    node.require("training_mode", 0)
    signal = node.signal()
    for position in range(1, 5):
        node.require_shape(position, signal.shape[1:2] or (1,))
    scale, shift, mean, variance = (node.weights(position).astype(np.float64) for position in range(1, 5))
    dtype = node.weights(1).dtype
    scale = scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    shift = shift - mean * scale
    per_channel = (-1, *(1,) * (len(signal.shape) - 2))
    return affine(node, signal, *(constant.astype(dtype).reshape(per_channel) for constant in (scale, shift)))


def prelu(node: Node) -> Signal:
    """A slope for negative arguments: one, or one for each neuron."""
    signal, slope = node.signal(), node.weights(1)
    if slope.size == 1:
        leaky = Activation("leaky_relu", float(slope.item()))
        return _with_expression(node, signal, signal.expression.then(leaky, node.name))
    tensors = node.tensors
    signal = tensors.compact(signal)
    source, builder = signal.expression.tensor, tensors.builder
    positive, negative = (
        builder.elementwise(tensors.name(f"{node.name}.{word}"), source, Activation("clip", *bounds))
        for word, bounds in (("above", (0.0, np.inf)), ("below", (-np.inf, 0.0)))
    )
    negative_part = tensors.expression(negative, signal.expression.size)
    negative_signal = affine(node, _with_expression(node, signal, negative_part), slope, slope * 0)
    target = builder.combine(
        tensors.name(f"{node.name}.sum"), positive, negative_signal.expression.tensor, "add"
    )
    return _with_expression(node, signal, tensors.expression(target, signal.expression.size))


def _of_two_signals(node: Node, left: Signal, right: Signal) -> Signal:
    a, b = left.expression, right.expression
    if node.operator not in COMBINATION_OF:
        raise Unsupported("its second input is not a constant")
    if a.tensor != b.tensor or not left.lies_like(right):
        return combine(node, left, right, COMBINATION_OF[node.operator])
    with np.errstate(all="ignore"):
        curve = _CURVE_OF[node.operator](a.curve, b.curve)
    return _with_expression(node, left, a.apply(node.operator, curve, (b,), node.name))


def combine(node: Node, left: Signal, right: Signal, kind: str) -> Signal:
    """Two values of the graph, broadcast to one shape."""
    tensors, builder = node.tensors, node.tensors.builder
    left, right = tensors.settled(left), tensors.settled(right)
    name = tensors.name(node.name)
    a, b = left.expression.tensor, right.expression.tensor
    same_neurons = builder.neurons(a) == builder.neurons(b)
    if left.lies_like(right) and same_neurons and left.is_permuted():
        target = builder.combine(name, a, b, kind)
        return _with_expression(node, left, tensors.expression(target, left.expression.size))
    if len(left.shape) != len(right.shape):
        raise Unsupported(f"it joins shapes {left.shape[1:]} and {right.shape[1:]}, expected as many axes")
    try:
        shape = np.broadcast_shapes(left.shape, right.shape)
    except ValueError:
        raise Unsupported(f"it joins shapes {left.shape[1:]} and {right.shape[1:]}") from None
    axis = tensors.axis_of_neurons(left if left.shape == shape else right)
    a, b = (_broadcast(node, signal, shape, axis) for signal in (left, right))
    target = builder.combine(name, a, b, kind)
    return tensors.signal(target, shape, str(node), axis)


def _broadcast(node: Node, signal: Signal, shape: tuple[int, ...], axis: int) -> str:
    """A tensor with as many neurons as ``shape`` has on ``axis``, with all its positions or with one."""
    neurons, sizes = signal.shape[1 + axis], list(shape[1:])
    positions = np.delete(signal.shape[1:], axis)
    if (positions > 1).any() and positions.tolist() != np.delete(sizes, axis).tolist():
        sizes[axis] = neurons
        signal = node.tensors.settled(signal).placed(np.broadcast_to(signal.places, sizes))
    tensor = node.tensors.map(signal, axis)
    if neurons == shape[1 + axis]:
        return tensor
    ones = np.ones((shape[1 + axis], 1), np.float32)
    return node.tensors.sums(f"{node.name}.spread", tensor, ones)


OPERATORS: dict[str, Callable[[Node], Value]] = {
    **dict.fromkeys(_ACTIVATIONS, activation),
    "Clip": clip,
    **dict.fromkeys(("Neg", "Erf", "Log", "Not"), unary),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum"), arithmetic),
    **dict.fromkeys((*COMPARISONS, "And", "Or", "Where"), conditional),
    "Mish": mish,
    "BatchNormalization": batch_normalisation,
    "PRelu": prelu,
}
