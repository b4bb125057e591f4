"""Graphs as models of the onnx package, in memory; and models as graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.exporters.graph import OPSET
from repurpose_hpc.model.ends import Port, Step, Subgraph
from repurpose_hpc.model.ends.call import EMBEDDING
from repurpose_hpc.model.importers.onnx.refusal import operator_of
from repurpose_hpc.model.importers.onnx.subgraphs import attribute_value
from repurpose_hpc.model.network import FREE

if TYPE_CHECKING:
    import onnx

# Of ONNX' own operators, in a step; others have their domain in front of the name.
_OWN = ""
# The version of the format of files: the first that runtimes need for opset 17.
_IR_VERSION = 8


def import_onnx() -> Any:
    """The onnx package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import onnx
        import onnx.version_converter
    except ImportError:
        raise UserError(
            "writing ONNX graphs needs a package that is not installed; pip install 'repurpose-hpc[onnx]'"
        ) from None
    return onnx


def model_of(graph: Subgraph, tensors: Mapping[str, onnx.TensorProto] | None = None) -> onnx.ModelProto:
    """A model of the onnx package.

    Args:
        graph: without a model of its own.
        tensors: what stands for its constants, by name; None: they themselves.
    """
    onnx = import_onnx()
    constants = tensors or {
        name: onnx.numpy_helper.from_array(array, name) for name, array in graph.constants.items()
    }
    inputs, outputs = (
        [
            onnx.helper.make_tensor_value_info(
                port.name,
                onnx.helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype)),
                axes_of(port, graph.batch),
            )
            for port in ports
        ]
        for ports in (graph.inputs, graph.outputs)
    )
    nodes = [_node(onnx, step) for step in graph.steps]
    proto = onnx.helper.make_graph(nodes, "network", inputs, outputs, [*constants.values()])
    imports = [onnx.helper.make_opsetid(*item) for item in opsets(graph).items()]
    return onnx.helper.make_model(
        proto, opset_imports=imports, ir_version=_IR_VERSION, producer_name="repurpose-hpc"
    )


def axes_of(port: Port, batch: int = 0) -> list[int | str]:
    """Sizes of an input or an output, or names of what may have any; ``batch``: see ``Subgraph``."""
    return [batch or "samples", *("tokens" if size == FREE else size for size in port.shape)]


def opsets(graph: Subgraph) -> dict[str, int]:
    """The version of each domain: the newest that a node is of."""
    versions: dict[str, int] = {}
    for step in graph.steps:
        domain, _, _ = step.operator.rpartition(".")
        versions[domain] = max(step.opset, versions.get(domain, 0))
    return versions or {_OWN: OPSET}


def _node(onnx: Any, step: Step) -> onnx.NodeProto:
    domain, _, operator = step.operator.rpartition(".")
    attributes = {
        name: onnx.numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for name, value in step.attributes.items()
    }
    return onnx.helper.make_node(
        operator, step.inputs, step.outputs, name=step.outputs[0], domain=domain, **attributes
    )


def at_opset(end: Subgraph) -> Subgraph:
    """An end of a model as nodes of the opset of graphs that are made here, or of a newer one.

    Raises:
        UserError: they cannot be written, or the onnx package is missing.
    """
    if end.model:
        end = _opened(end)
    end = replace(end, steps=tuple(_standard(step) for step in end.steps))
    if opsets(end).get(_OWN, OPSET) >= OPSET:
        return end
    try:
        model = import_onnx().version_converter.convert_version(model_of(end), OPSET)
    except Exception as error:  # RuntimeError and others, by what the converter stumbles over
        operators = ", ".join(end.operators)
        raise UserError(
            f"{operators}: expected nodes that onnx's version converter brings to opset {OPSET}, found those "
            f"of opset {opsets(end)[_OWN]}: {error}; export the original with opset {OPSET} or later, and "
            "restructure that"
        ) from None
    return _read(model, end)


def _standard(step: Step) -> Step:
    """A step by an operator of ONNX."""
    if step.operator != EMBEDDING:
        return step
    return replace(step, operator="Gather", attributes={"axis": 0}, opset=OPSET)


def _opened(end: Subgraph) -> Subgraph:
    """An end that onnxruntime computes, as nodes."""
    return _read(import_onnx().load_from_string(end.model), end)


def _read(model: onnx.ModelProto, end: Subgraph) -> Subgraph:
    """The nodes of a model, between the inputs and outputs of an end.

    Raises:
        UserError: nodes have further ones inside.
    """
    onnx = import_onnx()
    versions = {each.domain: each.version for each in model.opset_import}
    steps = []
    for node in model.graph.node:
        attributes = {each.name: attribute_value(each) for each in node.attribute}
        operator = operator_of(node)
        if any(value is None for value in attributes.values()):
            raise UserError(
                f"{node.output[0]} ({operator}): expected a node that stands by itself, found one with "
                "others inside; leave it out of the original, and restructure that"
            )
        steps.append(Step(operator, tuple(node.input), tuple(node.output), attributes, versions[node.domain]))
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    return replace(end, steps=tuple(steps), constants=constants, model=b"")
