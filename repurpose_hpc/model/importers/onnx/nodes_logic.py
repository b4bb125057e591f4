"""ONNX operators on truth values, which are 0 where something is false and 1 where it is true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.importers.onnx.expression import Expression
from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.nodes_elementwise import (
    affine,
    check_axes,
    finite_number,
    of_two_signals,
    with_expression,
)
from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported, Value

# By operator: an activation of the first input less the second, and whether that is negated before.
_COMPARISONS = {
    "Greater": ("greater", False),
    "GreaterOrEqual": ("greater_equal", False),
    "Less": ("greater", True),
    "LessOrEqual": ("greater_equal", True),
    "Equal": ("equal", False),
}
# By operator, that with the inputs the other way round.
_SWAPPED = {
    "Greater": "Less",
    "Less": "Greater",
    "GreaterOrEqual": "LessOrEqual",
    "LessOrEqual": "GreaterOrEqual",
}


def comparison(node: Node) -> Signal:
    """A value compared with a constant or another value."""
    left, right = node.inputs
    if isinstance(left, Signal) and isinstance(right, Signal):
        difference = of_two_signals(node, node.signal(0), node.signal(1), "subtract")
        return _compared(node, difference, node.operator, 0.0)
    if isinstance(left, Signal):
        return _with_constant(node, node.signal(0), 1, node.operator)
    return _with_constant(node, node.signal(1), 0, _SWAPPED.get(node.operator, node.operator))


def _with_constant(node: Node, signal: Signal, position: int, operator: str) -> Signal:
    """A value compared with the constant at ``position``."""
    constant = node.constant(position)
    check_axes(signal, constant)
    if constant.size == 1:
        return _compared(node, signal, operator, finite_number(constant, node.input_names[position]))
    constant = _numbers(node, position)
    return _compared(node, affine(node, signal, constant.dtype.type(1), -constant), operator, 0.0)


def _compared(node: Node, signal: Signal, operator: str, number: float) -> Signal:
    kind, is_negated = _COMPARISONS[operator]
    expression = signal.expression
    if is_negated:
        expression, number = expression.scaled(-1, f"{node.name}.negative"), -number
    return _truth(node, signal, expression.then(Activation(kind, number), node.name))


def _truth(node: Node, signal: Signal, expression: Expression) -> Signal:
    return with_expression(node, signal, replace(expression, is_truth=True))


def _numbers(node: Node, position: int) -> np.ndarray:
    """A constant, truth values as 0 and 1."""
    constant = node.constant(position)
    return constant.astype(np.float32) if constant.dtype == bool else node.weights(position)


def negation(node: Node) -> Signal:
    """True where the input is false."""
    return _not(node, node.signal())


def _not(node: Node, signal: Signal) -> Signal:
    name = f"{node.name}.not"
    return _truth(node, signal, signal.expression.scaled(-1, name).shifted(1, name))


def connective(node: Node) -> Signal:
    """And, Or, Xor of two truth values."""
    left, right = node.inputs
    if not (isinstance(left, Signal) and isinstance(right, Signal)):
        return _connective_with_constant(node, 0 if isinstance(left, Signal) else 1)
    kind = {"And": "multiply", "Or": "maximum", "Xor": "subtract"}[node.operator]
    result = of_two_signals(node, left, right, kind)
    expression = result.expression
    if node.operator == "Xor":
        expression = expression.then(Activation("abs"), node.name)
    return _truth(node, result, expression)


def _connective_with_constant(node: Node, position: int) -> Signal:
    """What a truth value and a constant make: a straight line of the value."""
    signal, constant = node.signal(position), _numbers(node, 1 - position)
    check_axes(signal, constant)
    scale, shift = {
        "And": (constant, constant * 0),
        "Or": (1 - constant, constant),
        "Xor": (1 - 2 * constant, constant),
    }[node.operator]
    result = affine(node, signal, scale, shift)
    return _truth(node, result, result.expression)


def where(node: Node) -> Value:
    """One of two values, by a condition."""
    condition = node.inputs[0]
    if isinstance(condition, np.ndarray):
        return _where_constant(node, condition)
    for place in (1, 2):
        if _is_number(node.inputs[place], -np.inf) and _is_number(node.inputs[3 - place], 0):
            seen = node.signal(0) if place == 2 else _not(node, node.signal(0))
            return with_expression(node, seen, seen.expression.then(Activation("log"), node.name))
    chosen, other = node.signal(0), _not(node, node.signal(0))
    parts = [_masked(node, mask, position) for mask, position in ((chosen, 1), (other, 2))]
    first, *others = [part for part in parts if part is not None]
    return of_two_signals(node, first, others[0], "add") if others else first


def _is_number(value: Value | None, number: float) -> bool:
    return isinstance(value, np.ndarray) and value.size == 1 and value.item() == number


def _masked(node: Node, mask: Signal, position: int) -> Signal | None:
    """An input where ``mask`` is 1, else 0; None if it is 0 everywhere, which can be left out."""
    if isinstance(node.inputs[position], Signal):
        return of_two_signals(node, mask, node.signal(position), "mask")
    constant = node.constant(position)
    check_axes(mask, constant)
    if constant.size > 1:
        constant = _numbers(node, position)
        return affine(node, mask, constant, constant * 0)
    number = finite_number(constant, node.input_names[position])
    if number == 0 and position == 2:
        return None
    return with_expression(node, mask, mask.expression.scaled(number, node.name))


def _where_constant(node: Node, condition: np.ndarray) -> Value:
    """One of two values, by a constant condition: both times 0 or 1, and their sum."""
    if condition.size == 1:
        value = node.inputs[1 if condition.item() else 2]
        if isinstance(value, Signal) and value.shape == _largest_shape(node):
            return value
    masks = (condition.astype(np.float32), (~condition).astype(np.float32))
    signals: list[Signal] = []
    shift = np.zeros((), np.float32)
    for position, mask in zip((1, 2), masks, strict=True):
        if isinstance(node.inputs[position], Signal):
            signals.append(affine(node, node.signal(position), mask, mask * 0))
        else:
            shift = shift + mask * np.where(mask > 0, _numbers(node, position), 0)
    if len(signals) == 2:
        return of_two_signals(node, signals[0], signals[1], "add")
    return affine(node, signals[0], np.ones_like(shift), shift)


def _largest_shape(node: Node) -> tuple[int, ...]:
    inputs = enumerate(node.inputs)
    shapes = [v.shape if isinstance(v, Signal) else node.constant(place).shape for place, v in inputs]
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError as error:
        raise Unsupported(str(error)) from None


def cast(node: Node) -> Signal:
    """Between floating-point types nothing; to truth values what is not 0."""
    from onnx import TensorProto

    target = node.attributes["to"]
    signal = node.signal(after_head=True)
    if target == TensorProto.BOOL:
        return _as_truth(node, signal)
    if target not in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16):
        raise Unsupported(
            f"attribute to is {TensorProto.DataType.Name(target)}, expected a floating-point type"
        )
    return replace(signal, origin=str(node))


def _as_truth(node: Node, signal: Signal) -> Signal:
    if signal.expression.is_truth:
        return replace(signal, origin=str(node))
    return _not(node, _compared(node, node.signal(), "Equal", 0.0))


OPERATORS: dict[str, Callable[[Node], Value]] = {
    **dict.fromkeys(_COMPARISONS, comparison),
    **dict.fromkeys(("And", "Or", "Xor"), connective),
    "Cast": cast,
    "Not": negation,
    "Where": where,
}
