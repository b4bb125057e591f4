"""Networks in ONNX graphs, as torch.onnx and other exporters write them.

The graph is executed once on what is known without data: constants are folded, and the values that depend
on the input are ``Signal``s, from which the operations of the network are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.importers.input_shapes import InputShapes
from repurpose_hpc.model.importers.onnx.constants import fold
from repurpose_hpc.model.importers.onnx.file import Graph, read_graph
from repurpose_hpc.model.importers.onnx.functions import definition, has_definition
from repurpose_hpc.model.importers.onnx.moved import in_front
from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.nodes_elementwise import COMPARISONS
from repurpose_hpc.model.importers.onnx.operators import AFTER_HEAD, OPERATORS, SUPPORTED, apply
from repurpose_hpc.model.importers.onnx.rewriting import ALWAYS, REWRITERS
from repurpose_hpc.model.importers.onnx.signal import Moved, Signal, Unsupported, Value
from repurpose_hpc.model.importers.onnx.tensors import Tensors
from repurpose_hpc.model.importers.onnx.varying import Varying
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Depthwise, Mixing
from repurpose_hpc.model.spec import IllegalNetwork

if TYPE_CHECKING:
    import onnx


def load_onnx(path: Path, input_shapes: InputShapes | None = None) -> Network:
    """The network in an ONNX file; external data is looked for beside it.

    An input of shape (N, C, H, W) has C neurons (channels) of H·W positions where its first use needs a map,
    and C·H·W neurons where that is a layer on vectors; a sample has its values in C order.  Several inputs,
    and outputs, follow one another in the order of the graph.

    Raises:
        UserError: the ``onnx`` package is missing, the file is not valid, or something in the graph is not
            supported; names the node, the operator and the attribute.
    """
    evaluation = _Evaluation(read_graph(path, input_shapes))
    for proto in evaluation.graph.nodes:
        evaluation.evaluate(proto)
        if evaluation.refusals:
            raise UserError(f"{path}: {evaluation.refusals[0]}; change the model before exporting it")
    return evaluation.network()


def unsupported(path: Path, input_shapes: InputShapes | None = None) -> list[str]:
    """The nodes of an ONNX file that are not supported, each with the reason.

    A node behind one of them is judged by its operator alone.

    Raises:
        UserError: the file cannot be read at all.
    """
    evaluation = _Evaluation(read_graph(path, input_shapes))
    for proto in evaluation.graph.nodes:
        evaluation.evaluate(proto)
    if not evaluation.refusals:
        try:
            evaluation.network()
        except UserError as error:
            return [str(error).removeprefix(f"{path}: ")]
    return evaluation.refusals


class _Evaluation:
    """One evaluation of a graph.

    Attributes:
        graph: what is evaluated.
        refusals: a text for each node that is not supported.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.refusals: list[str] = []
        self._tensors = Tensors(_compared_numbers(graph))
        # None: behind a refused node, or a secondary output without a name.
        self._values: dict[str, Value | None] = {"": None, **graph.constants}
        self._softmaxes: dict[Signal, Signal] = {}
        for name, shape in graph.inputs.items():
            self._values[name] = self._tensors.input(name, shape, alone=len(graph.inputs) == 1)

    def evaluate(self, proto: onnx.NodeProto) -> None:
        """Compute the outputs of a node, or refuse it."""
        name, operator = _name(proto), _operator(proto)
        outputs: tuple[Value | None, ...]
        try:
            outputs = self._outputs(proto)
        except (Unsupported, UserError) as error:
            self.refusals.append(f"node {name!r} ({operator}): {error}")
            outputs = (None,) * len(proto.output)
        self._values.update(zip(proto.output, outputs, strict=False))  # a mask of Dropout is not made

    def _outputs(self, proto: onnx.NodeProto) -> tuple[Value | None, ...]:
        """The outputs of a node; None where an input is behind a refused node.

        Raises:
            Unsupported: the operator, or the way in which it is used.
        """
        inputs, operator = self._inputs(proto), _operator(proto)
        if any(self._values[tensor] is None for tensor in proto.input if tensor):
            known = operator in OPERATORS or operator in REWRITERS or has_definition(proto, self.graph.opset)
            if not known:
                raise Unsupported(f"operator {operator} is not supported, expected {SUPPORTED}")
            return (None,) * len(proto.output)
        constants = [value for value in inputs if not isinstance(value, (Signal, Moved))]
        if operator in ALWAYS or (operator in REWRITERS and len(constants) < len(inputs)):
            node = self._node(proto, _name(proto), operator, inputs)
            return self._of_nodes(proto, REWRITERS[operator](proto, node), "of what replaces it,")
        if len(constants) == len(inputs):
            return fold(proto, constants, self.graph.opset)
        if operator not in AFTER_HEAD:
            inputs = tuple(map(self._within, inputs))
        outputs: tuple[Value | None, ...]
        try:
            outputs = apply(self._node(proto, _name(proto), operator, inputs))
        except Unsupported as error:
            outputs = self._of_definition(proto, inputs, error)
        return tuple(_without_empty(value) for value in outputs)

    def _of_definition(
        self, proto: onnx.NodeProto, inputs: tuple[Value | None, ...], error: Unsupported
    ) -> tuple[Value | None, ...]:
        """The outputs of a node from the operators that define its own; ``error``: why that is needed."""
        nodes = definition(proto, inputs, self.graph.opset)
        if nodes is None:
            raise error
        try:
            return self._of_nodes(proto, nodes, "of its definition")
        except Unsupported:
            if _operator(proto) in OPERATORS:
                raise error from None
            raise

    def _of_nodes(
        self, proto: onnx.NodeProto, nodes: Iterable[onnx.NodeProto], whose: str
    ) -> tuple[Value | None, ...]:
        """The outputs of a node from others in its place.

        Raises:
            Unsupported: one of them is not supported; names it, after ``whose``.
        """
        for node in nodes:
            try:
                self._values.update(zip(node.output, self._outputs(node), strict=False))
            except (Unsupported, UserError) as error:
                raise Unsupported(f"{whose} node {_name(node)!r} ({_operator(node)}): {error}") from None
        return tuple(self._values[tensor] for tensor in proto.output)

    def _within(self, value: Value | None) -> Value | None:
        """A value that is used further: a Softmax that is not at the end is computed step by step."""
        from onnx.helper import make_node

        if isinstance(value, Moved):
            signal = self._within(value.signal)
            assert isinstance(signal, Signal)
            return replace(value, signal=signal)
        if not isinstance(value, Signal) or value.head == "identity":
            return value
        if value not in self._softmaxes:
            plain = replace(value, head="identity").reshaped((value.shape[0], value.features))
            operator = "Softmax" if value.head == "softmax" else "LogSoftmax"
            source, target = f"{value.origin} {len(self._softmaxes)}", f"{value.origin} as a value"
            node = make_node(operator, [source], [target], axis=-1)
            self._values[source] = plain
            (result,) = self._of_definition(node, (plain,), Unsupported(f"it follows {value.origin}"))
            assert isinstance(result, Signal)
            self._softmaxes[value] = result.reshaped(value.shape)
        return self._softmaxes[value]

    def network(self) -> Network:
        """The network, once all nodes have been evaluated.

        Raises:
            UserError: an output is not supported.
        """
        path, values = self.graph.path, [in_front(self._values[name]) for name in self.graph.outputs]
        for name, value in zip(self.graph.outputs, values, strict=True):
            if isinstance(value, Moved):
                raise UserError(
                    f"{path}: output {name!r}: expected the samples on the first axis, found them on axis "
                    f"{value.axis} of {len(value.shape)}; transpose it before exporting the model"
                )
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
        layers = (op for op in network.operations if isinstance(op, Mixing | Depthwise))
        if all(isinstance(layer, Mixing) and layer.fixed for layer in layers):
            raise UserError(
                f"{path}: expected one or more Conv, Gemm or MatMul, found none; the model is empty"
            )
        return network

    def _inputs(self, proto: onnx.NodeProto) -> tuple[Value | None, ...]:
        for tensor in proto.input:
            if tensor and tensor not in self._values:
                raise Unsupported(
                    f"reads {tensor!r}, a secondary output or sparse initializer, expected a dense tensor"
                )
        return tuple(self._values[tensor] if tensor else None for tensor in proto.input)

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


def _compared_numbers(graph: Graph) -> Iterator[float]:
    """Constants of one number that comparisons of the graph read, as far as ``GRID`` reaches."""
    from onnx.numpy_helper import to_array

    constants = dict(graph.constants)
    for proto in graph.nodes:
        if proto.op_type == "Constant" and proto.attribute[0].name == "value":
            constants[proto.output[0]] = to_array(proto.attribute[0].t)
        if proto.op_type in COMPARISONS:
            numbers = (constants[name] for name in proto.input if name in constants)
            yield from (float(number.item()) for number in numbers if number.size == 1)


def _operator(proto: onnx.NodeProto) -> str:
    return proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}"


def _name(proto: onnx.NodeProto) -> str:
    return proto.name or next(filter(None, proto.output), "")


def _without_empty(value: Value | None) -> Value | None:
    """A value without any entry is a constant, for nothing in it depends on the input."""
    return Varying.empty(value.shape) if isinstance(value, Signal) and not value.features else value
