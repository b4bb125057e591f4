"""ONNX operators value by value: activations, constants for each neuron, two values of the graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.activations import DECLARED, Activation, ActivationKind
from repurpose_hpc.model.importers.arrays import as_weights
from repurpose_hpc.model.importers.onnx.axes import members
from repurpose_hpc.model.importers.onnx.expression import Expression
from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported, Value
from repurpose_hpc.model.operations import COMBINATIONS


def with_expression(node: Node, signal: Signal, expression: Expression) -> Signal:
    """Another function of the same values."""
    return replace(signal, expression=expression, origin=str(node))


def activation(node: Node) -> Signal:
    """An operator that is an activation by itself."""
    signal = node.signal()
    return with_expression(node, signal, signal.expression.then(_activation(node), node.name))


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
COMBINATION_OF = {
    operator: kind for kind, combination in COMBINATIONS.items() for operator in combination.onnx
}


def clip(node: Node) -> Signal:
    """Bounds that are attributes in older opsets and inputs in newer ones."""
    signal = node.signal()
    low, high = (
        node.number(position, node.attributes.get(name, default))
        for position, name, default in ((1, "min", -np.inf), (2, "max", np.inf))
    )
    expression = signal.expression.then(Activation("clip", low, high), node.name)
    return with_expression(node, signal, expression)


def negative(node: Node) -> Signal:
    """The same values with the other sign."""
    signal = node.signal()
    return with_expression(node, signal, signal.expression.scaled(-1, node.name))


def gated(node: Node) -> Signal:
    """Mish, and a Swish of any slope: the argument times a function of it."""
    signal, name = node.signal(), node.name
    x, slope = signal.expression, node.attributes.get("alpha", 1.0)
    if node.operator == "Mish":
        gate = x.then(Activation("softplus"), f"{name}.softplus").then(Activation("tanh"), f"{name}.tanh")
    else:
        inner = x if slope == 1 else x.scaled(slope, f"{name}.slope")
        gate = inner.then(Activation("sigmoid"), f"{name}.sigmoid")
    return with_expression(node, signal, x.combined("multiply", gate, name))


def shrink(node: Node) -> Signal:
    """x - bias above a threshold, x + bias below the negative one, 0 between them."""
    signal, name = node.signal(), node.name
    x, threshold = signal.expression, node.attributes.get("lambd", 0.5)
    bias = node.attributes.get("bias", 0.0)
    if bias in (0, threshold) and threshold >= 0:
        kind = "hardshrink" if bias == 0 else "softshrink"
        return with_expression(node, signal, x.then(Activation(kind, threshold), name))
    is_below = x.scaled(-1, f"{name}.negative").then(Activation("greater", threshold), f"{name}.is_below")
    is_above = (
        is_below.scaled(-1, f"{name}.else")
        .shifted(1, f"{name}.else")
        .combined(
            "multiply", x.then(Activation("greater", threshold), f"{name}.is_above"), f"{name}.is_above"
        )
    )
    below = is_below.combined("mask", x.shifted(bias, f"{name}.raised"), f"{name}.below")
    above = is_above.combined("mask", x.shifted(-bias, f"{name}.lowered"), f"{name}.above")
    return with_expression(node, signal, below.combined("add", above, name))


def arithmetic(node: Node) -> Signal | np.ndarray:
    """Add, Mul, Max and their like, of two values or more."""
    operands = [
        Operand(node.signal(place) if isinstance(value, Signal) else node.constant(place), name)
        for place, (value, name) in enumerate(zip(node.inputs, node.input_names, strict=True))
    ]
    return reduce(lambda left, right: _binary(node, left, right), operands).value


def mean(node: Node) -> Signal | np.ndarray:
    """The mean of two values or more."""
    total = arithmetic(replace(node, operator="Sum"))
    if isinstance(total, np.ndarray):
        return total / len(node.inputs)
    return with_expression(node, total, total.expression.scaled(1 / len(node.inputs), node.name))


class Operand(NamedTuple):
    """A value with its name, for messages."""

    value: Signal | np.ndarray
    name: str


def _binary(node: Node, left: Operand, right: Operand) -> Operand:
    if isinstance(left.value, Signal) and isinstance(right.value, Signal):
        if node.operator not in COMBINATION_OF:
            raise Unsupported(f"its second input {right.name!r} is not a constant")
        value: Signal | np.ndarray = of_two_signals(
            node, left.value, right.value, COMBINATION_OF[node.operator]
        )
    elif isinstance(left.value, Signal):
        value = _of_signal_and_constant(node, left.value, right, False)
    elif isinstance(right.value, Signal):
        value = _of_signal_and_constant(node, right.value, left, True)
    else:  # two constants among the inputs of a Sum
        value = COMBINATIONS[COMBINATION_OF[node.operator]].value(left.value, right.value)
    return Operand(value, f"{left.name} and {right.name}")


def _of_signal_and_constant(node: Node, signal: Signal, constant: Operand, swapped: bool) -> Signal:
    """An operator on a signal and a constant; ``swapped``: the constant comes first."""
    array, name = constant
    assert isinstance(array, np.ndarray)
    check_axes(signal, array)
    if array.size == 1:
        number = finite_number(array, name, infinite=node.operator in ("Max", "Min"))
        expression = _with_number(node, signal.expression, number, swapped)
        return with_expression(node, signal, expression.of_precision(array.dtype.name))
    if array.dtype.kind in "iu" and node.operator in ("Add", "Sub", "Mul", "Sum"):
        array = array.astype(np.float64)  # integers of a quantised model are numbers like others
    return _with_array(node, signal, as_weights(array, f"constant {name!r}"), swapped)


def check_axes(signal: Signal, constant: np.ndarray) -> None:
    """Refuse a constant that has more axes than the signal."""
    if constant.ndim > len(signal.shape):
        raise Unsupported(f"a constant of shape {constant.shape} would change the shape {signal.shape[1:]}")


def finite_number(constant: np.ndarray, name: str, infinite: bool = False) -> float:
    """A constant of one number, which may be ``infinite``, but not NaN."""
    number = float(constant.item())
    if math.isnan(number) or (math.isinf(number) and not infinite):
        raise Unsupported(
            f"its constant {name!r} is {number}, expected a finite number; export the model again"
        )
    return number


def _with_number(node: Node, expression: Expression, number: float, swapped: bool) -> Expression:
    """An operator on an expression and a number; ``swapped``: the number comes first."""
    operator, name = node.operator, node.name
    if operator in ("Add", "Sum"):
        return expression.shifted(number, name)
    if operator == "Sub":
        return (
            expression.scaled(-1, name).shifted(number, name)
            if swapped
            else expression.shifted(-number, name)
        )
    if operator == "Mul":
        return expression.scaled(number, name)
    if operator == "Div":
        if swapped:
            return expression.then(Activation("power", -1.0), name).scaled(number, name)
        return expression.scaled(_inverse(number), name)
    if operator == "Pow" and swapped:
        if number <= 0:
            raise Unsupported(f"its base is {number:g}, expected a positive one where exponents are computed")
        return expression.scaled(math.log(number), name).then(Activation("exp"), name)
    if operator == "Pow":
        return expression.then(Activation("square") if number == 2 else Activation("power", number), name)
    bounds = (number, np.inf) if operator == "Max" else (-np.inf, number)
    return expression.then(Activation("clip", *bounds), name)


def _inverse(number: float) -> float:
    if number == 0:
        raise Unsupported("it divides by the constant 0")
    return 1 / number


def _with_array(node: Node, signal: Signal, constant: np.ndarray, swapped: bool) -> Signal:
    """A scale and a shift that differ from neuron to neuron, or from value to value."""
    zero, one = constant.dtype.type(0), constant.dtype.type(1)
    if node.operator in ("Add", "Sum"):
        return affine(node, signal, one, constant)
    if node.operator == "Sub":
        return affine(node, signal, -one, constant) if swapped else affine(node, signal, one, -constant)
    if node.operator == "Mul":
        return affine(node, signal, constant, zero)
    if node.operator == "Div":
        if swapped:
            inverse = signal.expression.then(Activation("power", -1.0), node.name)
            return affine(node, with_expression(node, signal, inverse), constant, zero)
        if not constant.all():
            raise Unsupported("it divides by a constant that is 0 somewhere")
        return affine(node, signal, 1 / constant, zero)
    if node.operator in ("Max", "Min"):
        bound = affine(node, signal, zero, constant)
        return of_two_signals(node, signal, bound, COMBINATION_OF[node.operator])
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
    return with_expression(node, signal, tensors.expression(target, signal.expression.size))


def batch_normalisation(node: Node) -> Signal:
    """The scale and the shift that the statistics of training amount to."""
    node.require("training_mode", 0)
    if node.outputs > 1:  # before opset 14 there is no other sign of it
        raise Unsupported(
            f"it has {node.outputs} outputs, which are the statistics of training; export the model after "
            "model.eval()"
        )
    signal = node.signal()
    for position in range(1, 5):
        node.require_shape(position, signal.shape[1:2] or (1,))
    scale, shift, mean, variance = (node.weights(position).astype(np.float64) for position in range(1, 5))
    dtype = node.weights(1).dtype
    scale = scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    shift = shift - mean * scale
    # Until opset 8, there may be statistics of every place.
    shape = (-1, *(1,) * (len(signal.shape) - 2)) if node.attributes.get("spatial", 1) else scale.shape
    return affine(node, signal, *(constant.astype(dtype).reshape(shape) for constant in (scale, shift)))


def prelu(node: Node) -> Signal:
    """A slope for negative arguments: one, or one for each neuron."""
    signal, slope = node.signal(), node.weights(1)
    if slope.size == 1:
        leaky = Activation("leaky_relu", float(slope.item()))
        return with_expression(node, signal, signal.expression.then(leaky, node.name))
    tensors = node.tensors
    signal = tensors.compact(signal)
    source, builder = signal.expression.tensor, tensors.builder
    positive, negative = (
        builder.elementwise(tensors.name(f"{node.name}.{word}"), source, Activation("clip", *bounds))
        for word, bounds in (("above", (0.0, np.inf)), ("below", (-np.inf, 0.0)))
    )
    negative_part = tensors.expression(negative, signal.expression.size)
    negative_signal = affine(node, with_expression(node, signal, negative_part), slope, slope * 0)
    target = builder.combine(
        tensors.name(f"{node.name}.sum"), positive, negative_signal.expression.tensor, "add"
    )
    return with_expression(node, signal, tensors.expression(target, signal.expression.size))


def of_two_signals(node: Node, left: Signal, right: Signal, kind: str) -> Signal:
    """A combination of two signals, part of an expression if they are values of one tensor."""
    a, b = left.expression, right.expression
    if a.tensor != b.tensor or not left.lies_like(right):
        return combine(node, left, right, kind)
    return with_expression(node, left, a.combined(kind, b, node.name))


def combine(node: Node, left: Signal, right: Signal, kind: str) -> Signal:
    """Two values of the graph, broadcast to one shape."""
    tensors, builder = node.tensors, node.tensors.builder
    left, right = tensors.settled(left), tensors.settled(right)
    name = tensors.name(node.name)
    a, b = left.expression.tensor, right.expression.tensor
    same_neurons = builder.neurons(a) == builder.neurons(b)
    if left.lies_like(right) and same_neurons and left.is_permuted():
        target = builder.combine(name, a, b, kind)
        return with_expression(node, left, tensors.expression(target, left.expression.size))
    if len(left.shape) != len(right.shape):
        raise Unsupported(f"it joins shapes {left.shape[1:]} and {right.shape[1:]}, expected as many axes")
    try:
        shape = np.broadcast_shapes(left.shape, right.shape)
    except ValueError:
        raise Unsupported(f"it joins shapes {left.shape[1:]} and {right.shape[1:]}") from None
    whole = [signal for signal in (left, right) if signal.shape == shape]
    axes = tensors.axes_of_neurons(whole) if whole else None
    if axes is None:
        axes = (tensors.axis_of_neurons(left if left.shape == shape else right),)
    a, b = (_broadcast(node, signal, shape, axes) for signal in (left, right))
    return tensors.signal_on_axes(builder.combine(name, a, b, kind), shape, str(node), axes)


def _broadcast(node: Node, signal: Signal, shape: tuple[int, ...], axes: tuple[int, ...]) -> str:
    """A tensor with as many neurons as ``shape`` has on ``axes``, with all its positions or with one."""
    own, sizes = signal.shape[1:], list(shape[1:])
    positions = np.delete(own, axes)
    if (positions > 1).any() and positions.tolist() != np.delete(sizes, axes).tolist():
        sizes = [own[axis] if axis in axes else size for axis, size in enumerate(sizes)]
        signal = node.tensors.settled(signal).placed(np.broadcast_to(signal.places, sizes))
    tensor = node.tensors.map_of_axes(signal, axes)
    neurons = [own[axis] for axis in axes]
    expected = [shape[1 + axis] for axis in axes]
    if neurons == expected:
        return tensor
    return node.tensors.sums(
        f"{node.name}.spread", tensor, np.ascontiguousarray(members(expected, neurons).T)
    )


OPERATORS: dict[str, Callable[[Node], Value]] = {
    **dict.fromkeys(_ACTIVATIONS, activation),
    "Clip": clip,
    "Neg": negative,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum"), arithmetic),
    **dict.fromkeys(("Mish", "Swish"), gated),
    "Mean": mean,
    "Shrink": shrink,
    "BatchNormalization": batch_normalisation,
    "PRelu": prelu,
}
