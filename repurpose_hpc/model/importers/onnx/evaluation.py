"""Networks in ONNX graphs, as torch.onnx and other exporters write them.

The graph is executed once on what is known without data: constants are folded, and the values that depend
on the input are ``Signal``s, from which the operations of the network are made.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from repurpose_hpc.errors import LacksMemory, Note, UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.ends import Port
from repurpose_hpc.model.forward import apply_head, compute, flat, split_inputs
from repurpose_hpc.model.importers.input_shapes import InputShapes
from repurpose_hpc.model.importers.onnx.constants import fold
from repurpose_hpc.model.importers.onnx.ends import Divided, Evaluate, behind, divide
from repurpose_hpc.model.importers.onnx.file import Graph, read_graph
from repurpose_hpc.model.importers.onnx.functions import definition, has_definition
from repurpose_hpc.model.importers.onnx.moved import in_front, with_samples_first
from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.nodes_attention import absorb
from repurpose_hpc.model.importers.onnx.operators import AFTER_HEAD, NOT_SUPPORTED, OPERATORS, apply
from repurpose_hpc.model.importers.onnx.refusal import Refusal, operator_of
from repurpose_hpc.model.importers.onnx.rewriting import ALWAYS, REWRITERS, rewritten
from repurpose_hpc.model.importers.onnx.scores import Deferred, Scores, plain
from repurpose_hpc.model.importers.onnx.signal import DoesNotFit, Moved, Signal, Unsupported, Value
from repurpose_hpc.model.importers.onnx.tensors import Tensors
from repurpose_hpc.model.importers.onnx.varying import BATCHES, Varying
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
    return network_of(read_graph(path, input_shapes))


def network_of(graph: Graph, are_sequences: bool = False) -> Network:
    """The network of a graph; see ``load_onnx``.

    Args:
        graph: what is read from a file.
        are_sequences: whether inputs of several axes are known to have their neurons on the last one; else
            the axis is found that moves fewer values.

    Raises:
        UserError: see ``load_onnx``.
    """
    divided = _divided(graph, _evaluated_as_sequences if are_sequences else _evaluated)
    if divided.refusals:
        first, *others = divided.refusals
        more = f" (the first of {len(others) + 1} nodes; the command inspect lists all)" if others else ""
        kind = LacksMemory if any(refusal.lacks_memory for refusal in divided.refusals) else UserError
        raise kind(f"{graph.path}: {first}{more}; change the model before exporting it")
    ends = replace(divided.ends, input_ports=_inputs(graph), output_names=graph.outputs)
    return replace(divided.evaluation.network(), ends=ends)


def _inputs(graph: Graph) -> tuple[Port, ...]:
    """The inputs as the file has them; none if NumPy has no name for their numbers."""
    from onnx import helper

    try:
        dtypes = {name: helper.tensor_dtype_to_np_dtype(number).name for name, number in graph.types.items()}
    except KeyError:
        return ()
    return tuple(Port(name, shape[1:], dtypes[name]) for name, shape in graph.inputs.items())


def unsupported(path: Path, input_shapes: InputShapes | None = None) -> list[Refusal]:
    """The nodes of an ONNX file that are not supported, those behind another one as well.

    Raises:
        UserError: the file cannot be read at all.
    """
    divided = _divided(read_graph(path, input_shapes), _evaluated)
    if divided.refusals:
        return divided.refusals + behind(divided.middle, divided.refusals, _evaluated)
    try:
        divided.evaluation.network()
    except UserError as error:
        return [Refusal("", "", "", str(error).removeprefix(f"{path}: "))]
    return []


def _divided(graph: Graph, evaluate: Evaluate) -> Divided:
    """A graph in its parts; ``evaluate``: see ``ends.divide``.

    Raises:
        UserError: sizes in it ask for more memory than there is.
    """
    with _in_memory(graph.path):
        divided = divide(graph, evaluate)
        is_free = any(samples == BATCHES[0] for samples, *_ in graph.inputs.values())
        if graph.fixed_batch and is_free and not all(refusal.fits for refusal in divided.refusals):
            return _with_batch(graph, graph.fixed_batch, divided)
    return divided


def _with_batch(graph: Graph, batch: int, divided: Divided) -> Divided:
    """A graph, divided for any number of samples, which shapes in it refuse: for the only one that they take.

    That may be one alone.  The numbers of samples, if more, would be as good as features.
    """
    unfit = next(refusal for refusal in divided.refusals if not refusal.fits)
    if batch == 1:
        inputs = {name: (1, *sizes) for name, (_, *sizes) in graph.inputs.items()}
        alone = divide(replace(graph, inputs=inputs), _evaluated)
        if not alone.refusals:
            warnings.warn(
                f"{graph.path}: the exporter fixed the batch at 1 (node {unfit.name!r} takes no other); "
                "samples are computed each by itself; for other programs export with an example of 2 or more",
                Note,
                stacklevel=2,
            )
            return alone
    reason = (
        f"{unfit.reason}; the exporter fixed the batch at {batch}; export again with an example of 2 samples "
        "or more, from a model that takes their number from its input"
    )
    refusals = [replace(each, reason=reason) if each is unfit else each for each in divided.refusals]
    return replace(divided, refusals=refusals)


@contextmanager
def _in_memory(path: Path) -> Iterator[None]:
    """A block that needs as much memory as sizes in a file ask for.

    Raises:
        LacksMemory: there is not so much.
    """
    try:
        yield
    except MemoryError as error:
        reason = str(error) or "there is too little of it"
        raise LacksMemory(
            f"{path}: expected a model that can be imported in the memory of this machine: {reason}; check "
            "the sizes in it, or export it again"
        ) from None


def _evaluated(graph: Graph) -> Evaluation:
    """The evaluation of a graph with the neurons of its inputs on the axis that moves fewer values."""
    evaluation = _evaluated_with(graph, False)
    if not evaluation.regrouped or all(len(shape) < 3 for shape in graph.inputs.values()):
        return evaluation
    other = _evaluated_with(graph, True)
    return min(evaluation, other, key=lambda each: (len(each.refusals), each.regrouped))


def _evaluated_as_sequences(graph: Graph) -> Evaluation:
    """The evaluation of a graph whose inputs have their neurons on the last of several axes.

    What moves neurons stays in the network: ends would see whole sequences.
    """
    evaluation = _evaluated_with(graph, True)
    evaluation.moves.clear()
    return evaluation


def _evaluated_with(graph: Graph, with_features_last: bool) -> Evaluation:
    """The evaluation of all nodes of a graph, and of its outputs."""
    evaluation = Evaluation(graph, with_features_last)
    for proto in graph.nodes:
        evaluation.evaluate(proto)
    if not evaluation.refusals:
        evaluation.check_outputs()
    return evaluation


def tensor_values(
    path: Path, x: np.ndarray, input_shapes: InputShapes | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of an ONNX file as the imported network computes them, in the order of the nodes.

    Those that are a part of an activation that is written out are left out.

    Args:
        path: of a file that ``load_onnx`` reads.
        x: float64, (samples, inputs).
        input_shapes: see ``load_model``.

    Yields:
        the name in the graph, and the values, (samples, ...).
    """
    divided = _divided(read_graph(path, input_shapes), _evaluated)
    network = divided.evaluation.network()
    (middle,) = divided.ends.feed(Samples.of(x), network.input_shape).batches(len(x), dtype=np.float64)
    yield from divided.evaluation.tensor_values(split_inputs(network, middle.T))


class Evaluation:
    """One evaluation of a graph.

    Attributes:
        graph: what is evaluated; its inputs' neurons are on the first axis unless ``with_features_last``.
        refusals: of nodes.
        moves: nodes for which neurons are moved by mixings of a definition, which may cost an exchange.
        values: tensor -> what is known of it; None behind a refused node.
    """

    def __init__(self, graph: Graph, with_features_last: bool = False) -> None:
        self.graph = graph
        self.refusals: list[Refusal] = []
        self.moves: list[Refusal] = []
        self._tensors = Tensors(with_features_last)
        # None: behind a refused node, or a secondary output without a name.
        self.values: dict[str, Value | Scores | None] = {"": None, **graph.constants}
        self._softmaxes: dict[Signal, Signal] = {}
        for name, shape in graph.inputs.items():
            self.values[name] = self._tensors.input(name, shape, alone=len(graph.inputs) == 1)

    def evaluate(self, proto: onnx.NodeProto) -> None:
        """Compute the outputs of a node, or refuse it."""
        outputs: tuple[Value | Scores | None, ...]
        try:
            with self._moving(proto):
                outputs = self._outputs(proto)
        except (Unsupported, UserError, MemoryError) as error:
            refusal = _refusal(proto, str(error) or "there is not enough memory for it")
            fits, lacks_memory = not isinstance(error, DoesNotFit), isinstance(error, MemoryError)
            self.refusals.append(replace(refusal, fits=fits, lacks_memory=lacks_memory))
            outputs = (None,) * len(proto.output)
        self.values.update(zip(proto.output, outputs, strict=False))  # a mask of Dropout is not made

    @property
    def regrouped(self) -> int:
        """Values per sample that were moved to other neurons."""
        return self._tensors.regrouped

    def check_outputs(self) -> None:
        """Refuse the nodes that make outputs of which no tensor can be made."""
        makers = {tensor: proto for proto in self.graph.nodes for tensor in proto.output}
        for name in self.graph.outputs:
            try:
                with self._moving(makers.get(name)):
                    if name in self.values:
                        self.values[name] = plain(self.values[name])
                    value = in_front(plain(self.values.get(name)))
                    if isinstance(value, Signal):
                        self._tensors.output(value)
            except Unsupported as error:
                if name not in makers:
                    raise UserError(f"{self.graph.path}: input {name!r} as an output: {error}") from None
                self.refusals.append(_refusal(makers[name], f"an output: {error}"))

    @contextmanager
    def _moving(self, proto: onnx.NodeProto | None) -> Iterator[None]:
        """A block that may add mixings of a definition for the sake of a node; None: of none."""
        before = len(self._tensors.builder.operations)
        yield
        added = self._tensors.builder.operations[before:]
        if proto is not None and any(isinstance(op, Mixing) and op.fixed for op in added):
            self.moves.append(_refusal(proto, "moves neurons"))

    def _outputs(self, proto: onnx.NodeProto) -> tuple[Value | Scores | None, ...]:
        """The outputs of a node; None where an input is behind a refused node.

        Raises:
            Unsupported: the operator, or the way in which it is used.
        """
        inputs, operator = self._inputs(proto), operator_of(proto)
        scores = absorb(self._node(proto, _name(proto), operator, inputs))
        if isinstance(scores, Scores):
            compute = partial(self._outputs_of, proto, operator, inputs)
            return (replace(scores, plain=Deferred(compute, f"node {_name(proto)!r} ({operator})")),)
        return (scores,) if scores is not None else self._outputs_of(proto, operator, inputs)

    def _outputs_of(
        self, proto: onnx.NodeProto, operator: str, given: tuple[Value | Scores | None, ...]
    ) -> tuple[Value | Scores | None, ...]:
        """``_outputs`` from the inputs of a node, nothing of which is put off."""
        inputs = tuple(map(plain, given))
        if any(self.values[tensor] is None for tensor in proto.input if tensor):
            known = operator in OPERATORS or operator in REWRITERS or has_definition(proto, self.graph.opset)
            if not known:
                raise Unsupported(NOT_SUPPORTED.format(operator))
            return (None,) * len(proto.output)
        constants = [value for value in inputs if not isinstance(value, (Signal, Moved))]
        if operator in ALWAYS or (operator in REWRITERS and len(constants) < len(inputs)):
            node = self._node(proto, _name(proto), operator, inputs)
            return self._of_nodes(proto, rewritten(proto, node), "of what replaces it,")
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
            return tuple(map(plain, self._of_nodes(proto, nodes, "of its definition")))
        except Unsupported:
            if operator_of(proto) in OPERATORS:
                raise error from None
            raise

    def _of_nodes(
        self, proto: onnx.NodeProto, nodes: Iterable[onnx.NodeProto], whose: str
    ) -> tuple[Value | Scores | None, ...]:
        """The outputs of a node from others in its place.

        Raises:
            Unsupported: one of them is not supported; names it, after ``whose``.
        """
        for node in nodes:
            try:
                self.values.update(zip(node.output, self._outputs(node), strict=False))
            except (Unsupported, UserError) as error:
                raise Unsupported(f"{whose} node {_name(node)!r} ({operator_of(node)}): {error}") from None
        return tuple(self.values[tensor] for tensor in proto.output)

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
            vector = replace(value, head="identity").reshaped((value.shape[0], value.features))
            operator = "Softmax" if value.head == "softmax" else "LogSoftmax"
            source, target = f"{value.origin} {len(self._softmaxes)}", f"{value.origin} as a value"
            node = make_node(operator, [source], [target], axis=-1)
            self.values[source] = vector
            (result,) = self._of_definition(node, (vector,), Unsupported(f"it follows {value.origin}"))
            assert isinstance(result, Signal)
            self._softmaxes[value] = result.reshaped(value.shape)
        return self._softmaxes[value]

    def network(self) -> Network:
        """The network, once all nodes have been evaluated.

        Raises:
            UserError: an output is not supported, or there is too little memory.
        """
        path = self.graph.path
        for name in self.graph.outputs:
            if name not in self.values:
                raise UserError(
                    f"{path}: output {name!r} is a secondary output of a node, expected one that is made, "
                    "not a mask or an index; export the model without it"
                )
        values = [with_samples_first(plain(self.values[name])) for name in self.graph.outputs]
        for name, value in zip(self.graph.outputs, values, strict=True):
            if isinstance(value, Moved):
                raise UserError(
                    f"{path}: output {name!r}: expected the samples on an axis of their own, found them and "
                    f"others on one of the axes of {value.shape}; reshape it before exporting the model"
                )
        outputs = [value for value in values if isinstance(value, Signal)]
        if len(outputs) < len(values):
            raise UserError(
                f"{path}: expected outputs that depend on the input, found a constant; export it again"
            )
        try:
            with _in_memory(path):
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

    def tensor_values(self, inputs: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """See ``tensor_values``; ``inputs``: those of the network, neuron-major."""
        signals = {name: value for name, value in self.values.items() if isinstance(value, Signal)}
        settled = {}
        for name, signal in signals.items():
            with suppress(Unsupported):
                settled[name] = self._tensors.settled(signal)
        tensors = dict(inputs)
        for op in self._tensors.builder.operations:
            tensors[op.target] = compute(op, *(tensors[source] for source in op.sources))
        for name, signal in settled.items():
            values = flat(tensors[signal.expression.tensor])
            yield name, apply_head(signal.head, np.moveaxis(values[signal.places], -1, 0))

    def _inputs(self, proto: onnx.NodeProto) -> tuple[Value | Scores | None, ...]:
        for tensor in proto.input:
            if tensor and tensor not in self.values:
                raise Unsupported(f"reads {tensor!r}, a secondary output, expected the first of a node")
        return tuple(self.values[tensor] if tensor else None for tensor in proto.input)

    def _node(
        self, proto: onnx.NodeProto, name: str, operator: str, inputs: tuple[Value | Scores | None, ...]
    ) -> Node:
        from onnx.helper import get_attribute_value

        return Node(
            name=name,
            operator=operator,
            opset=self.graph.opset,
            inputs=cast("tuple[Value | None, ...]", inputs),  # scores are shown to ``absorb`` alone
            input_names=tuple(proto.input),
            outputs=sum(map(bool, proto.output)),
            attributes={attribute.name: get_attribute_value(attribute) for attribute in proto.attribute},
            tensors=self._tensors,
        )


def _name(proto: onnx.NodeProto) -> str:
    return proto.name or next(filter(None, proto.output), "")


def _refusal(proto: onnx.NodeProto, reason: str) -> Refusal:
    return Refusal(next(filter(None, proto.output), ""), _name(proto), operator_of(proto), reason)


def _without_empty(value: Value | None) -> Value | None:
    """A value without any entry is a constant, for nothing in it depends on the input."""
    return Varying.empty(value.shape) if isinstance(value, Signal) and not value.features else value
