"""Operators that ONNX defines by other operators.

Where the importer does not know an operator, or not in the way in which a node uses it, the node is replaced
by its definition, once the shapes of its inputs are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.model.importers.onnx.signal import Moved, Signal, Value
from repurpose_hpc.model.importers.onnx.varying import Varying

if TYPE_CHECKING:
    import onnx


def definition(
    proto: onnx.NodeProto, inputs: Sequence[Value | None], opset: int
) -> list[onnx.NodeProto] | None:
    """The nodes that compute the same, tensors inside called after the node; None if there is no definition.

    Args:
        proto: the node.
        inputs: its inputs, None where one is left out.
        opset: version of ONNX's own operators.
    """
    from onnx.inliner import inline_selected_functions

    if not has_definition(proto, opset):
        return None
    model = _model_of(proto, inputs, opset)
    try:
        model = inline_selected_functions(
            model, [(proto.domain, proto.op_type)], inline_schema_functions=True
        )
    except Exception:  # the inliner raises whatever its C++ does on inputs that do not fit
        return None
    nodes = list(model.graph.node)
    if len(nodes) == 1 and nodes[0].op_type == proto.op_type:
        return None
    return [_renamed(node, proto) for node in nodes]


def has_definition(proto: onnx.NodeProto, opset: int) -> bool:
    """Tell whether ONNX defines the operator of a node by others."""
    from onnx.defs import SchemaError, get_schema

    version = opset if proto.domain in ("", "ai.onnx") else 1
    try:
        schema = get_schema(proto.op_type, version, proto.domain)
    except SchemaError:
        return False
    return schema.has_function or schema.has_context_dependent_function


def _model_of(proto: onnx.NodeProto, inputs: Sequence[Value | None], opset: int) -> onnx.ModelProto:
    from onnx import TensorProto, helper

    values = dict(zip(proto.input, inputs, strict=True))
    # A signal has no type of its own: that of the weights it meets.
    floats = [array for array in map(_array, inputs) if array is not None and array.dtype.kind == "f"]
    element_type = helper.np_dtype_to_tensor_dtype(floats[0].dtype) if floats else int(TensorProto.FLOAT)
    infos = [_info(name, value, element_type) for name, value in values.items() if name and value is not None]
    outputs = [helper.make_tensor_value_info(name, element_type, None) for name in proto.output if name]
    domains = {"": opset, **({} if proto.domain in ("", "ai.onnx") else {proto.domain: 1})}
    graph = helper.make_graph([proto], "definition", infos, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*item) for item in domains.items()])


def _info(name: str, value: Value, element_type: int) -> onnx.ValueInfoProto:
    from onnx import TensorProto, helper

    if isinstance(value, Moved):
        return helper.make_tensor_value_info(name, element_type, value.shape)
    if isinstance(value, Signal):
        is_bool = value.expression.curve.dtype == bool
        kind = TensorProto.BOOL if is_bool else element_type
        return helper.make_tensor_value_info(name, kind, value.shape)
    array = _array(value)
    assert array is not None
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _array(value: Value | None) -> np.ndarray | None:
    """A constant, for the first of ``BATCHES``."""
    if isinstance(value, Varying):
        return value.values[0]
    return value if isinstance(value, np.ndarray) else None


def _renamed(node: onnx.NodeProto, proto: onnx.NodeProto) -> onnx.NodeProto:
    """A node of a definition with the names of its tensors made those of the graph's node."""
    outside, prefix = {"", *proto.input, *proto.output}, next(filter(None, proto.output))

    def renamed(name: str) -> str:
        return name if name in outside else f"{prefix}/{name}"  # tensors, other than nodes, have unique names

    copy = type(node)()
    copy.CopyFrom(node)
    copy.name = proto.name or prefix
    if not outside.intersection(node.output):
        copy.name += f".{node.name or node.output[0]}"
    del copy.input[:], copy.output[:]
    copy.input.extend(map(renamed, node.input))
    copy.output.extend(map(renamed, node.output))
    return copy
