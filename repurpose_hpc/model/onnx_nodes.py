"""The ONNX operators that the importer understands, one function for each kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.activations import Activation, activate
from repurpose_hpc.model.arrays import as_weights, is_half
from repurpose_hpc.model.onnx_signal import HALF_PRECISION_TOLERANCE, Signal

Value = Signal | np.ndarray


@dataclass(frozen=True, eq=False)
class Node:
    """One node of the graph with the values it reads.

    Attributes:
        file: the model file, for messages.
        name: the node's name, or that of its output where it has none.
        operator: its type, with the domain where that is not ONNX's own.
        inputs: None where an optional input is left out at the start or in the middle.
        input_names: the tensors' names.
        attributes: as Python values.
    """

    file: str
    name: str
    operator: str
    inputs: tuple[Value | None, ...]
    input_names: tuple[str, ...]
    attributes: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.file}: node {self.name!r} ({self.operator})"

    def refuse(self, found: str) -> NoReturn:
        """Raise the error of a node that is known but used in a way that is not supported."""
        raise UserError(
            f"{self}: {found}; expected a network without branches made of {SUPPORTED}; "
            "change the model before exporting it"
        )

    def input(self, position: int) -> Value | None:
        """An input, None where it is left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    def signal(self) -> Signal:
        """The first input, which has to depend on the network's input."""
        signal = self.input(0)
        if not isinstance(signal, Signal):
            self.refuse(f"its first input {self.input_names[0]!r} is a constant")
        return signal

    def plain_signal(self) -> Signal:
        """The first input with its element-wise expression recognised as an activation."""
        return self.settle(self.signal())

    def settle(self, signal: Signal) -> Signal:
        """``signal`` as a plain one, fit to be followed by a mixing, an activation or a head."""
        self.require_no_head(signal)
        plain = signal.settled()
        if plain is None:
            self.refuse(f"what {signal.origin} computes element by element is no supported activation")
        return plain

    def require_no_head(self, signal: Signal) -> None:
        """Nothing but the output may follow a Softmax."""
        if signal.head != "identity":
            self.refuse(f"it follows {signal.origin}, which is supported at the end only")

    def constant(self, position: int) -> np.ndarray:
        """An input that has to be a constant."""
        value = self.input(position)
        if not isinstance(value, np.ndarray):
            self.refuse(f"its input {self.input_names[position]!r} is not a constant")
        return value

    def weights(self, position: int) -> np.ndarray:
        """A constant input as float32 or float64."""
        return as_weights(self.constant(position), f"{self}: {self.input_names[position]}")


def apply(node: Node) -> Signal | np.ndarray:
    """The first output of a node of which some input is a ``Signal``.

    Raises:
        UserError: the operator, or the way in which it is used, is not supported.
    """
    handler = _HANDLERS.get(node.operator)
    if handler is None:
        raise UserError(
            f"{node}: operator {node.operator} is not supported, expected {SUPPORTED}; "
            "change the model before exporting it"
        )
    result = handler(node)
    return (
        replace(result, origin=f"node {node.name!r} ({node.operator})")
        if isinstance(result, Signal)
        else result
    )


def _gemm(node: Node) -> Signal:
    attributes = node.attributes
    if attributes.get("transA", 0):
        node.refuse("attribute transA is 1, expected 0")
    W = node.weights(1)
    W = W if attributes.get("transB", 0) else W.T
    C = np.zeros(1, W.dtype) if node.input(2) is None else node.weights(2)
    alpha, beta = W.dtype.type(attributes.get("alpha", 1.0)), W.dtype.type(attributes.get("beta", 1.0))
    return _mix(node, alpha * W, beta * C.astype(W.dtype))


def _matmul(node: Node) -> Signal:
    W = node.weights(1)
    return _mix(node, W.T, np.zeros(1, W.dtype))


def _mix(node: Node, W: np.ndarray, b: np.ndarray) -> Signal:
    """A mixing by ``W`` (outputs, inputs) and ``b``, broadcast to (outputs,)."""
    signal = node.plain_signal()
    if W.ndim != 2 or signal.shape[-1] != W.shape[-1] or signal.features != W.shape[-1]:
        node.refuse(f"it multiplies features of shape {signal.shape[1:]} by weights of shape {W.T.shape}")
    outputs = len(W)
    bias = _as_features(node, b, (outputs,))
    return signal.then((np.ascontiguousarray(W), bias), (*signal.shape[:-1], outputs))


def _as_features(node: Node, constant: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A constant added to every sample alike, as one value for each feature of ``shape``."""
    per_sample = constant[0] if constant.ndim > len(shape) and len(constant) == 1 else constant
    try:
        return np.broadcast_to(per_sample, shape).flatten()
    except ValueError:
        node.refuse(f"it adds a constant of shape {constant.shape} to features of shape {shape}")


def _add(node: Node) -> Signal:
    """A bias where a mixing comes right before; otherwise part of an element-wise expression."""
    signals = [value for value in node.inputs if isinstance(value, Signal)]
    signal = signals[0]
    follows_mixing = signal.is_plain and signal.steps and not isinstance(signal.steps[-1], Activation)
    if len(signals) == 2 or not follows_mixing:
        return _expression(node)
    node.require_no_head(signal)
    W, b = signal.steps[-1]
    added = _as_features(node, node.weights(0 if node.input(1) is signal else 1), signal.shape[1:])
    return replace(signal, steps=(*signal.steps[:-1], (W, b + added.astype(b.dtype))))


def _expression(node: Node) -> Signal:
    """Apply an element-wise operator to the curves of its inputs."""
    signals = [value for value in node.inputs if isinstance(value, Signal)]
    if any(signal.steps is not signals[0].steps or signal.shape != signals[0].shape for signal in signals):
        node.refuse("it joins two branches")
    for signal in signals:
        node.require_no_head(signal)
    curves = [value.curve if isinstance(value, Signal) else _scalar(node, value) for value in node.inputs]
    tolerances = [signal.tolerance for signal in signals]
    tolerances += [
        HALF_PRECISION_TOLERANCE for value in node.inputs if not isinstance(value, Signal) and is_half(value)
    ]
    with np.errstate(all="ignore"):
        return replace(signals[0], curve=_CURVE_OF[node.operator](*curves), tolerance=max(tolerances))


def _scalar(node: Node, constant: np.ndarray) -> float:
    if constant.size != 1:
        node.refuse(f"its constant of shape {constant.shape} is neither one number nor a bias after a mixing")
    return float(constant.item())


def _erf(y: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return erf(y)


_CURVE_OF: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Erf": _erf,
}


def _activation(node: Node) -> Signal:
    """An activation; inside an element-wise expression (a Tanh within a Gelu) part of that."""
    signal = node.signal()
    node.require_no_head(signal)
    activation = _read_activation(node)
    plain = signal.settled()
    if plain is None:
        return replace(signal, curve=activate(activation, signal.curve))
    return plain.then(activation, plain.shape)


def _read_activation(node: Node) -> Activation:
    if node.operator == "LeakyRelu":
        return Activation("leaky_relu", node.attributes.get("alpha", 0.01))
    if node.operator == "Gelu":
        approximate = node.attributes.get("approximate", b"none").decode()
        if approximate not in ("none", "tanh"):
            node.refuse(f"attribute approximate is {approximate!r}, expected 'none' or 'tanh'")
        return Activation("gelu_tanh" if approximate == "tanh" else "gelu")
    return Activation(node.operator.lower())


def _head(node: Node) -> Signal:
    signal = node.plain_signal()
    axis = node.attributes.get("axis", -1)
    if axis % len(signal.shape) == 0 or signal.shape[axis] != signal.features:
        node.refuse(
            f"attribute axis is {axis}, which is not the whole feature axis of shape {signal.shape[1:]}"
        )
    return replace(signal, head="softmax" if node.operator == "Softmax" else "log_softmax")


def _identity(node: Node) -> Signal:
    return node.signal()


def _dropout(node: Node) -> Signal:
    training_mode = node.input(2)
    if training_mode is not None and node.constant(2).any():
        node.refuse("input training_mode is true; export the model after model.eval()")
    return node.signal()


def _cast(node: Node) -> Signal:
    from onnx import TensorProto

    to = node.attributes["to"]
    if to not in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16):
        node.refuse(f"attribute to is {TensorProto.DataType.Name(to)}, expected a floating-point type")
    return node.signal()


def _shape(node: Node) -> np.ndarray:
    shape = node.signal().shape
    return np.array(shape[node.attributes.get("start", 0) : node.attributes.get("end")], np.int64)


def _rearrange(node: Node) -> Signal:
    """Flatten, Reshape, Squeeze or Unsqueeze: samples stay apart, features keep their C order."""
    signal = node.signal()
    node.require_no_head(signal)
    shape = _rearranged_shape(node, signal.shape)
    if not shape or shape[0] != signal.shape[0] or len(shape) < 2:
        node.refuse("its result does not keep the samples, and nothing else, on the first axis")
    return replace(signal, shape=shape)


def _rearranged_shape(node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    virtual = np.broadcast_to(np.int8(0), shape)  # takes no memory
    if node.operator == "Flatten":
        axis = node.attributes.get("axis", 1)
        return (int(np.prod(shape[:axis])), int(np.prod(shape[axis:])))
    try:
        if node.operator == "Reshape":
            return virtual.reshape(_reshape_target(node, shape)).shape
        if node.operator == "Unsqueeze":
            return np.expand_dims(virtual, tuple(node.constant(1).tolist())).shape
        return np.squeeze(virtual, None if node.input(1) is None else tuple(node.constant(1).tolist())).shape
    except (ValueError, IndexError) as error:
        node.refuse(f"it does not fit features of shape {shape[1:]}: {error}")


def _reshape_target(node: Node, shape: tuple[int, ...]) -> list[int]:
    target = node.constant(1).tolist()
    if node.attributes.get("allowzero", 0):
        return target
    return [shape[axis] if size == 0 else size for axis, size in enumerate(target)]


_HANDLERS: dict[str, Callable[[Node], Value]] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _add,
    **dict.fromkeys(("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Gelu"), _activation),
    **dict.fromkeys(("Sub", "Mul", "Div", "Pow", "Erf"), _expression),
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _rearrange),
    "Shape": _shape,
    **dict.fromkeys(("Softmax", "LogSoftmax"), _head),
}

SUPPORTED = (
    "Gemm, MatMul, Add (of a bias), Relu, LeakyRelu, Sigmoid, Tanh, Gelu (also written out in Add, Sub, Mul, "
    "Div, Pow, Erf, Tanh), Identity, Dropout, Cast between floats, Flatten/Reshape/Squeeze/Unsqueeze that "
    "keep the samples apart, and Softmax or LogSoftmax over the features at the end"
)
