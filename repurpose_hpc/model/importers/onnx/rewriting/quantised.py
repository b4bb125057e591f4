"""Quantised operators as operators on floating-point numbers.

Weights become what their integers stand for.  The integers of a value that depends on the input stay: they
are numbers like others, and what rounds and bounds them is an operation of the network.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.errors import Note
from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.rewriting.nodes import Nodes
from repurpose_hpc.model.importers.onnx.signal import Moved, Signal, Unsupported

if TYPE_CHECKING:
    import onnx

# The types that a scale and a zero point can belong to.
_RANGES = {
    f"{sign}int{bits}": (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for sign in ("", "u")
    for bits in (4, 8, 16)
}


def quantise(proto: onnx.NodeProto, node: Node) -> Nodes:
    """QuantizeLinear: round(x / scale) + zero point, within the range of its type."""
    nodes, (low, high) = _nodes(node), _range(node)
    scale, zero_point = (_along_axis(node, position) for position in (1, 2))
    x = node.input(0)
    if isinstance(x, np.ndarray):
        integers = np.clip(np.rint(x / scale) + zero_point, low, high).astype(np.int32)
        nodes.add("Identity", nodes.constant(integers), output=proto.output[0])
        return nodes
    codes = nodes.add("Round", nodes.add("Div", proto.input[0], nodes.constant(scale)))
    if zero_point.any():
        codes = nodes.add("Add", codes, nodes.constant(zero_point.astype(scale.dtype)))
    # Reading both bounds from inputs is understood at any opset.
    bounds = (nodes.constant(np.asarray(bound, scale.dtype)) for bound in (low, high))
    nodes.add("Clip", codes, *bounds, output=proto.output[0])
    return nodes


def dequantise(proto: onnx.NodeProto, node: Node) -> Nodes:
    """DequantizeLinear: (x - zero point) · scale."""
    nodes, x = _nodes(node), proto.input[0]
    scale, zero_point = (_along_axis(node, position) for position in (1, 2))
    if isinstance(node.input(0), np.ndarray):
        centred = _plain(node, 0).astype(np.int64) - zero_point
        value = nodes.constant(centred.astype(scale.dtype) * scale)
        nodes.add("Identity", value, output=proto.output[0])
        return nodes
    if zero_point.any():
        x = nodes.add("Sub", x, nodes.constant(zero_point.astype(scale.dtype)))
    nodes.add("Mul", x, nodes.constant(scale), output=proto.output[0])
    return nodes


def _nodes(node: Node) -> Nodes:
    return Nodes(node.name, node.opset)


def _along_axis(node: Node, position: int) -> np.ndarray:
    """The scale or the zero point, of a shape that is broadcast to that of the first input."""
    value, x = _plain(node, position), node.input(0)
    if value.size == 1:
        return value.reshape(())
    assert isinstance(x, (Signal, Moved, np.ndarray))
    rank, block = len(x.shape), node.attributes.get("block_size", 0)
    axis = node.attributes.get("axis", 1) % rank
    if block and value.ndim == rank and isinstance(x, np.ndarray):
        return np.repeat(value, block, axis).take(np.arange(x.shape[axis]), axis)
    if block or value.ndim != 1 or value.size != x.shape[axis]:
        raise Unsupported(
            f"{node.called(position)} has shape {value.shape} for values of shape {x.shape}, expected one "
            "number, one for each place of an axis, or one for each block of constants"
        )
    return value.reshape(-1, *(1,) * (rank - axis - 1))


def _plain(node: Node, position: int) -> np.ndarray:
    """A constant input as NumPy's own type; 0 where a zero point is left out."""
    if node.input(position) is None:
        return np.zeros((), np.int32)
    value = node.constant(position)
    return value.astype(np.int32) if value.dtype.name in ("int4", "uint4") else value


def _range(node: Node) -> tuple[int, int]:
    """The bounds of the type that a QuantizeLinear makes."""
    from onnx.helper import tensor_dtype_to_np_dtype

    name = "uint8"
    if node.input(2) is not None:
        name = node.constant(2).dtype.name
    elif given := node.attributes.get("output_dtype", 0):
        name = tensor_dtype_to_np_dtype(given).name
    if name not in _RANGES:
        raise Unsupported(f"it quantises to {name}, expected {', '.join(_RANGES)}")
    return _RANGES[name]


def identify(proto: onnx.NodeProto, node: Node) -> Nodes:
    """DynamicQuantizeLinear, left out: scale 1 and zero point 0."""
    _note_dynamic(node)
    nodes = _nodes(node)
    nodes.add("Identity", proto.input[0], output=proto.output[0])
    for name, value in zip(proto.output[1:], (np.float32(1), np.uint8(0)), strict=True):
        if name:
            nodes.add("Identity", nodes.constant(value), output=name)
    return nodes


def _note_dynamic(node: Node) -> None:
    warnings.warn(
        "activations are not quantised where the file does so by the range of each batch "
        f"({node}, for one): a sample's result must not depend on its neighbours",
        Note,
        stacklevel=3,
    )


def _weights(node: Node, position: int, scale: np.ndarray, zero_point: int, axis: int) -> np.ndarray:
    """Constant integers of an input as what they stand for, in the dtype of ``scale``.

    Args:
        node: which has them.
        position: of the input.
        scale: one, or one for each place of ``axis``.
        zero_point: the position of an input like ``scale``.
        axis: of the weights.
    """
    codes, zeros = _plain(node, position), _plain(node, zero_point)
    shape = [1] * codes.ndim
    shape[axis] = -1
    centred = codes.astype(np.int64) - zeros.astype(np.int64).reshape(shape if zeros.size > 1 else ())
    return centred.astype(scale.dtype) * scale.reshape(shape if scale.size > 1 else ())


def _read(nodes: Nodes, node: Node, position: int) -> str:
    """The value of three inputs: integers, scale and zero point."""
    names = node.input_names[position : position + 3]
    return nodes.add("DequantizeLinear", *names)


def _write(nodes: Nodes, node: Node, y: str, position: int, output: str) -> None:
    """Quantise ``y`` by two inputs, scale and zero point; as it is where they are left out."""
    if node.input(position) is None:
        nodes.add("Identity", y, output=output)
    else:
        nodes.add("QuantizeLinear", y, *node.input_names[position : position + 2], output=output)


def convolve(proto: onnx.NodeProto, node: Node) -> Nodes:
    """QLinearConv."""
    nodes, scale = _nodes(node), node.constant(4)
    inputs = [_read(nodes, node, 0), nodes.constant(_weights(node, 3, scale, 5, 0))]
    if node.input(8) is not None:
        bias = node.constant(8).astype(scale.dtype) * node.constant(1).reshape(()) * scale.reshape(-1)
        inputs.append(nodes.constant(bias))
    _write(nodes, node, nodes.add("Conv", *inputs, **node.attributes), 6, proto.output[0])
    return nodes


def multiply(proto: onnx.NodeProto, node: Node) -> Nodes:
    """QLinearMatMul."""
    nodes = _nodes(node)
    W = nodes.constant(_weights(node, 3, node.constant(4), 5, -1))
    _write(nodes, node, nodes.add("MatMul", _read(nodes, node, 0), W), 6, proto.output[0])
    return nodes


def multiply_gemm(proto: onnx.NodeProto, node: Node) -> Nodes:
    """QGemm."""
    nodes, scale, attributes = _nodes(node), node.constant(4), node.attributes
    is_transposed = attributes.get("transB", 0)
    inputs = [
        _read(nodes, node, 0),
        nodes.constant(_weights(node, 3, scale, 5, 0 if is_transposed else 1)),
    ]
    if node.input(6) is not None:
        factor = scale.dtype.type(attributes.get("alpha", 1.0)) * node.constant(1).reshape(())
        inputs.append(nodes.constant(node.constant(6).astype(scale.dtype) * factor * scale.reshape(-1)))
    _write(nodes, node, nodes.add("Gemm", *inputs, **attributes), 7, proto.output[0])
    return nodes


def accumulate(operator: str, proto: onnx.NodeProto, node: Node) -> Nodes:
    """MatMulInteger and ConvInteger: of integers less their zero points."""
    nodes, x = _nodes(node), proto.input[0]
    zero_point = _plain(node, 2)
    if zero_point.any():
        if zero_point.size > 1:
            raise Unsupported(f"{node.called(2)} has shape {zero_point.shape}, expected one number")
        x = nodes.add("Sub", x, nodes.constant(zero_point.astype(np.float32).reshape(())))
    axis = 0 if operator == "Conv" else -1
    W = nodes.constant(_weights(node, 1, np.ones((), np.float32), 3, axis))
    nodes.add(operator, x, W, output=proto.output[0], **node.attributes)
    return nodes


def multiply_dynamically(proto: onnx.NodeProto, node: Node) -> Nodes:
    """DynamicQuantizeMatMul, whose activations are not quantised."""
    _note_dynamic(node)
    nodes = _nodes(node)
    W = nodes.constant(_weights(node, 1, node.constant(2), 3, -1))
    y = nodes.add("MatMul", proto.input[0], W)
    _add_bias(nodes, node, y, 4, proto.output[0])
    return nodes


def multiply_to_float(proto: onnx.NodeProto, node: Node) -> Nodes:
    """MatMulIntegerToFloat."""
    nodes = _nodes(node)
    W = nodes.constant(_weights(node, 1, node.constant(3), 5, -1))
    codes, scale, *zero_point = (node.input_names + ("",) * 7)[0], node.input_names[2], *node.input_names[4:5]
    y = nodes.add("MatMul", nodes.add("DequantizeLinear", codes, scale, *filter(None, zero_point)), W)
    _add_bias(nodes, node, y, 6, proto.output[0])
    return nodes


def _add_bias(nodes: Nodes, node: Node, y: str, position: int, output: str) -> None:
    if node.input(position) is None:
        nodes.add("Identity", y, output=output)
    else:
        nodes.add("Add", y, node.input_names[position], output=output)


def recur_dynamically(proto: onnx.NodeProto, node: Node) -> Nodes:
    """DynamicQuantizeLSTM, whose states and inputs are not quantised; its weights lie transposed."""
    _note_dynamic(node)
    nodes = _nodes(node)
    names = []
    for position, scale_position in ((1, 8), (2, 10)):
        scale, zeros = node.constant(scale_position), _plain(node, scale_position + 1)
        centred = node.constant(position).astype(np.int64) - _for_gates(zeros.astype(np.int64))
        names.append(nodes.constant((centred.astype(scale.dtype) * _for_gates(scale)).swapaxes(1, 2)))
    inputs = [proto.input[0], *names, *proto.input[3:8]]
    nodes.add_many("LSTM", inputs, list(proto.output), **node.attributes)
    return nodes


def _for_gates(values: np.ndarray) -> np.ndarray:
    """One value for each direction, or for each direction and row of gates, on (directions, inputs, rows)."""
    return values.reshape(len(values), 1, -1)


def compute(operator: str, operands: int, proto: onnx.NodeProto, node: Node) -> Nodes:
    """An operator on ``operands`` quantised values."""
    nodes = _nodes(node)
    node.require("channels_last", 0)
    values = [_read(nodes, node, 3 * operand) for operand in range(operands)]
    attributes = {name: value for name, value in node.attributes.items() if name not in _CONTRIB_ATTRIBUTES}
    _write(nodes, node, nodes.add(operator, *values, **attributes), 3 * operands, proto.output[0])
    return nodes


def concatenate(proto: onnx.NodeProto, node: Node) -> Nodes:
    """QLinearConcat, whose first inputs are scale and zero point of the result."""
    nodes = _nodes(node)
    values = [_read(nodes, node, position) for position in range(2, len(node.inputs), 3)]
    _write(nodes, node, nodes.add("Concat", *values, **node.attributes), 0, proto.output[0])
    return nodes


def rename(operator: str, proto: onnx.NodeProto, node: Node) -> Nodes:
    """The operator of ONNX that one of another domain is the same as."""
    nodes = _nodes(node)
    nodes.add_many(operator, list(proto.input), list(proto.output), **node.attributes)
    return nodes


_CONTRIB_ATTRIBUTES = ("channels_last", "opset")

REWRITERS: dict[str, Callable[[onnx.NodeProto, Node], Nodes]] = {
    "QuantizeLinear": quantise,
    "DequantizeLinear": dequantise,
    "DynamicQuantizeLinear": identify,
    "QLinearConv": convolve,
    "QLinearMatMul": multiply,
    "MatMulInteger": partial(accumulate, "MatMul"),
    "ConvInteger": partial(accumulate, "Conv"),
    "com.microsoft.QGemm": multiply_gemm,
    "com.microsoft.QLinearAdd": partial(compute, "Add", 2),
    "com.microsoft.QLinearMul": partial(compute, "Mul", 2),
    "com.microsoft.QLinearAveragePool": partial(compute, "AveragePool", 1),
    "com.microsoft.QLinearGlobalAveragePool": partial(compute, "GlobalAveragePool", 1),
    "com.microsoft.QLinearSigmoid": partial(compute, "Sigmoid", 1),
    "com.microsoft.QLinearLeakyRelu": partial(compute, "LeakyRelu", 1),
    "com.microsoft.QLinearSoftmax": partial(compute, "Softmax", 1),
    "com.microsoft.QLinearConcat": concatenate,
    "com.microsoft.DynamicQuantizeMatMul": multiply_dynamically,
    "com.microsoft.MatMulIntegerToFloat": multiply_to_float,
    "com.microsoft.DynamicQuantizeLSTM": recur_dynamically,
    "com.microsoft.QuantizeLinear": partial(rename, "QuantizeLinear"),
    "com.microsoft.DequantizeLinear": partial(rename, "DequantizeLinear"),
}
