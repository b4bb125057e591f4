"""Networks in ONNX graphs, as torch.onnx and other exporters write them.

The graph is executed once on what is known without data: constants are folded, and the values that depend
on the input are ``Signal``s, from which the operations of the network are made.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.importers.onnx.ends import behind, divide
from repurpose_hpc.model.importers.onnx.file import Graph, read_graph
from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.operators import NOT_SUPPORTED, OPERATORS, apply
from repurpose_hpc.model.importers.onnx.refusal import Refusal, operator_of
from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported, Value
from repurpose_hpc.model.importers.onnx.tensors import Tensors
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.spec import IllegalNetwork

if TYPE_CHECKING:
    import onnx

# Operators on constants alone: shapes, and weights that were not folded by the exporter.
_FOLDED = frozenset(
    (
        *("Constant", "ConstantOfShape", "Identity", "Cast", "CastLike", "Shape", "Size", "Range"),
        *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile", "Pad"),
        *("Concat", "Split", "Gather", "Slice", "Where", "Equal", "Greater", "Less", "And", "Or", "Not"),
        *("Add", "Sub", "Mul", "Div", "Mod", "Pow", "Sqrt", "Exp", "Log", "Neg", "Abs", "Reciprocal"),
        *("Max", "Min", "Sum", "Floor", "Ceil", "Round", "MatMul", "DequantizeLinear"),
        *("ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax", "ReduceMin"),
    )
)


def load_onnx(path: Path) -> Network:
    """The network in an ONNX file; external data is looked for beside it.

    An input of shape (N, C, H, W) has C neurons (channels) of H·W positions where its first use needs a map,
    and C·H·W neurons where that is a layer on vectors; a sample has its values in C order.  Several inputs,
    and outputs, follow one another in the order of the graph.

    Raises:
        UserError: the ``onnx`` package is missing, the file is not valid, or something in the graph is not
            supported; names the node, the operator and the attribute.
    """
    divided = divide(read_graph(path), _evaluated)
    if divided.refusals:
        first, *others = divided.refusals
        more = f" (the first of {len(others) + 1} nodes; the command inspect lists all)" if others else ""
        raise UserError(f"{path}: {first}{more}; change the model before exporting it")
    return replace(divided.evaluation.network(), ends=divided.ends)


def unsupported(path: Path) -> list[Refusal]:
    """The nodes of an ONNX file that are not supported, those behind another one as well.

    Raises:
        UserError: the file cannot be read at all.
    """
    divided = divide(read_graph(path), _evaluated)
    if divided.refusals:
        return divided.refusals + behind(divided.middle, divided.refusals, _evaluated)
    try:
        divided.evaluation.network()
    except UserError as error:
        return [Refusal("", "", "", str(error).removeprefix(f"{path}: "))]
    return []


def _evaluated(graph: Graph) -> Evaluation:
    """The evaluation of all nodes of a graph, and of its outputs."""
    evaluation = Evaluation(graph)
    for proto in graph.nodes:
        evaluation.evaluate(proto)
    if not evaluation.refusals:
        evaluation.check_outputs()
    return evaluation


class Evaluation:
    """One evaluation of a graph.

    Attributes:
        graph: what is evaluated.
        refusals: of nodes.
        values: tensor -> what is known of it; None behind a refused node.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.refusals: list[Refusal] = []
        self._tensors = Tensors()
        self.values: dict[str, Value | None] = dict(graph.constants)
        for name, shape in graph.inputs.items():
            self.values[name] = self._tensors.input(name, shape, alone=len(graph.inputs) == 1)

    def evaluate(self, proto: onnx.NodeProto) -> None:
        """Compute the outputs of a node, or refuse it."""
        name, operator = proto.name or proto.output[0], operator_of(proto)
        outputs: tuple[Value | None, ...]
        try:
            inputs = self._inputs(proto)
            if any(self.values[tensor] is None for tensor in proto.input if tensor):
                outputs = (None,) * len(proto.output)
                if operator not in OPERATORS:
                    raise Unsupported(NOT_SUPPORTED.format(operator))
            elif operator in _FOLDED and not any(isinstance(value, Signal) for value in inputs):
                outputs = _fold(proto, inputs, self.graph.opset)
            else:
                outputs = apply(self._node(proto, name, operator, inputs))
        except (Unsupported, UserError) as error:
            self._refuse(proto, str(error))
            outputs = (None,) * len(proto.output)
        self.values.update(zip(proto.output, outputs, strict=False))  # a mask of Dropout is not made

    def check_outputs(self) -> None:
        """Refuse the nodes that make outputs of which no tensor can be made."""
        makers = {tensor: proto for proto in self.graph.nodes for tensor in proto.output}
        for name in self.graph.outputs:
            value = self.values.get(name)
            try:
                if isinstance(value, Signal):
                    self._tensors.output(value)
            except Unsupported as error:
                if name not in makers:
                    raise UserError(f"{self.graph.path}: input {name!r} as an output: {error}") from None
                self._refuse(makers[name], f"an output: {error}")

    def _refuse(self, proto: onnx.NodeProto, reason: str) -> None:
        tensor = next(filter(None, proto.output), "")
        self.refusals.append(Refusal(tensor, proto.name or tensor, operator_of(proto), reason))

    def network(self) -> Network:
        """The network, once all nodes have been evaluated.

        Raises:
            UserError: an output is not supported.
        """
        path = self.graph.path
        for name in self.graph.outputs:
            if name not in self.values:
                raise UserError(
                    f"{path}: output {name!r} is a secondary output of a node, expected one that is made, "
                    "not a mask or an index; export the model without it"
                )
        values = [self.values[name] for name in self.graph.outputs]
        outputs = [value for value in values if isinstance(value, Signal)]
        if len(outputs) < len(values):
            raise UserError(
                f"{path}: expected outputs that depend on the input, found a constant; export it again"
            )
        try:
            network = self._tensors.build(outputs)
        except Unsupported as error:
            raise UserError(f"{path}: an output: {error}; change the model before exporting it") from None
        except IllegalNetwork as error:
            raise UserError(f"{path}: {error}; change the model before exporting it") from None
        if all(mixing.fixed for mixing in network.mixings):
            raise UserError(
                f"{path}: expected one or more Conv, Gemm or MatMul, found none; the model is empty"
            )
        return network

    def _inputs(self, proto: onnx.NodeProto) -> tuple[Value | None, ...]:
        for tensor in proto.input:
            if tensor and tensor not in self.values:
                raise Unsupported(
                    f"reads {tensor!r}, a secondary output or sparse initializer, expected a dense tensor"
                )
        return tuple(self.values[tensor] if tensor else None for tensor in proto.input)

    def _node(
        self, proto: onnx.NodeProto, name: str, operator: str, inputs: tuple[Value | None, ...]
    ) -> Node:
        from onnx.helper import get_attribute_value

        return Node(
            name=name,
            operator=operator,
            opset=self.graph.opset,
            inputs=inputs,
            input_names=tuple(proto.input),
            outputs=sum(map(bool, proto.output)),
            attributes={attribute.name: get_attribute_value(attribute) for attribute in proto.attribute},
            tensors=self._tensors,
        )


def _fold(proto: onnx.NodeProto, inputs: tuple[Value | None, ...], opset: int) -> tuple[np.ndarray, ...]:
    """The outputs of a node that has constants alone."""
    from onnx.helper import make_function, make_opsetid
    from onnx.reference import ReferenceEvaluator

    feeds = {name: value for name, value in zip(proto.input, inputs, strict=True) if name}
    outputs = [name for name in proto.output if name]
    function = make_function("", "fold", list(feeds), outputs, [proto], [make_opsetid("", opset)])
    try:
        return tuple(map(np.asarray, ReferenceEvaluator(function).run(None, feeds, attributes={})))
    except Exception as error:  # whatever the evaluator of the onnx package raises on a bad model
        raise Unsupported(f"it cannot be computed from its constants: {error}") from None
