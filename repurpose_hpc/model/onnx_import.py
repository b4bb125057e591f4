"""Multilayer perceptrons in ONNX graphs, as torch.onnx exports them in opset 17 and later.

The graph is executed once on what is known without data: constants are folded, and the
tensors that depend on the input are ``Signal``s, which collect mixings and activations.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.network import Network, sequence
from repurpose_hpc.model.onnx_nodes import SUPPORTED, Node, Value, apply
from repurpose_hpc.model.onnx_signal import Signal

if TYPE_CHECKING:
    import onnx

# The meaning of Softmax, and of the axes of Squeeze, changed with opset 13.
_OLDEST_OPSET = 13

# Stands for a batch of any size: a prime, so that a Reshape that mixes samples with features
# does not keep it by chance.
_ANY_BATCH = 7919

# Operators on constants alone: shapes, and weights that were not folded by the exporter.
_FOLDED = (
    *("Constant", "Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze"),
    *("Concat", "Gather", "Slice", "Shape", "Add", "Sub", "Mul", "Div"),
)


def load_onnx(path: Path) -> Network:
    """The network in an ONNX file; external data is looked for beside it.

    Inputs of shape (N, C, H, W) become C*H*W input neurons in C order.

    Raises:
        UserError: the ``onnx`` package is missing, the file is not valid, or the graph is
            not a chain of supported operators; names the node and the operator.
    """
    graph = _read_graph(path)
    values = _initial_values(graph, path)
    source = _input_name(graph, values, path)
    values[source] = signal = Signal(_input_shape(graph, source, path))
    for proto in graph.node:
        values[proto.output[0]] = _evaluate(proto, values, path)
    return _network(signal.features, values[graph.output[0].name], path)


def _import_onnx(path: Path) -> ModuleType:
    try:
        import onnx
        import onnx.inliner
    except ImportError:
        raise UserError(
            f"{path}: reading .onnx needs a package that is not installed; pip install 'repurpose-hpc[onnx]'"
        ) from None
    return onnx


def _read_graph(path: Path) -> onnx.GraphProto:
    onnx = _import_onnx(path)
    from google.protobuf.message import DecodeError

    try:
        onnx.checker.check_model(str(path))
        model = onnx.load(path)
    except (OSError, ValueError, DecodeError, onnx.checker.ValidationError) as error:
        raise UserError(
            f"{path}: expected a valid ONNX model: {error}; export it again and keep its data files beside it"
        ) from None
    opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)
    if opset < _OLDEST_OPSET:
        raise UserError(
            f"{path}: expected opset {_OLDEST_OPSET} or later, found {opset}; export with opset_version=17"
        )
    return onnx.inliner.inline_local_functions(model).graph if model.functions else model.graph


def _initial_values(graph: onnx.GraphProto, path: Path) -> dict[str, Value]:
    """The initializers by name."""
    from onnx.numpy_helper import to_array

    if not graph.node or len(graph.output) != 1:
        raise UserError(
            f"{path}: expected nodes and one output, "
            f"found {len(graph.node)} nodes and {len(graph.output)} outputs; "
            "export a model that returns one tensor"
        )
    return {initializer.name: to_array(initializer) for initializer in graph.initializer}


def _input_name(graph: onnx.GraphProto, initializers: dict[str, Value], path: Path) -> str:
    names = [item.name for item in graph.input if item.name not in initializers]
    if len(names) != 1:
        raise UserError(
            f"{path}: expected one input, found {len(names)} ({', '.join(names)}); "
            "export a model that takes one tensor"
        )
    return names[0]


def _input_shape(graph: onnx.GraphProto, name: str, path: Path) -> tuple[int, ...]:
    """The input's shape, the samples first."""
    tensor_type = next(item for item in graph.input if item.name == name).type.tensor_type
    sizes = [dimension.dim_value for dimension in tensor_type.shape.dim]  # 0 where unknown
    if len(sizes) < 2 or 0 in sizes[1:]:
        shown = ", ".join(d.dim_param or str(d.dim_value or "?") for d in tensor_type.shape.dim)
        raise UserError(
            f"{path}: input {name!r}: expected samples on the first axis and features of known size "
            f"on the others, found shape ({shown}); make only the first axis dynamic when exporting"
        )
    return (sizes[0] or _ANY_BATCH, *sizes[1:])


def _evaluate(proto: onnx.NodeProto, values: dict[str, Value], path: Path) -> Value:
    """The first output of a node."""
    node = _node(proto, values, path)
    if any(isinstance(value, Signal) for value in node.inputs) or node.operator not in _FOLDED:
        return apply(node)
    from onnx.reference import ReferenceEvaluator

    feeds = {name: value for name, value in zip(node.input_names, node.inputs, strict=True) if name}
    return np.asarray(ReferenceEvaluator(proto).run(None, feeds)[0])


def _node(proto: onnx.NodeProto, values: dict[str, Value], path: Path) -> Node:
    from onnx.helper import get_attribute_value

    name = proto.name or proto.output[0]
    unknown = [tensor for tensor in proto.input if tensor and tensor not in values]
    if unknown:
        raise UserError(
            f"{path}: node {name!r} ({proto.op_type}): reads {unknown[0]!r}, a secondary output "
            f"or sparse initializer, expected a dense tensor; supported are {SUPPORTED}; "
            "change the model before exporting it"
        )
    return Node(
        file=str(path),
        name=name,
        operator=proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}",
        inputs=tuple(values[tensor] if tensor else None for tensor in proto.input),
        input_names=tuple(proto.input),
        attributes={attribute.name: get_attribute_value(attribute) for attribute in proto.attribute},
    )


def _network(inputs: int, output: Value, path: Path) -> Network:
    if not isinstance(output, Signal):
        raise UserError(
            f"{path}: expected an output that depends on the input, found a constant; export it again"
        )
    final = output.settled()
    if final is None:
        raise UserError(
            f"{path}: what {output.origin} computes element by element is no supported activation, "
            f"expected {SUPPORTED}; change the model before exporting it"
        )
    if all(isinstance(step, Activation) for step in final.steps):
        raise UserError(f"{path}: expected one or more Gemm or MatMul, found none; the model is empty")
    return sequence(inputs, final.steps, final.head)
