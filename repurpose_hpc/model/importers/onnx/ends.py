"""Divides an ONNX graph into a front, a middle and a back.

The importer is asked for the whole graph first.  Where it refuses a node with no trained weights before it,
that node and all before it become the front; where it refuses one with none behind it, that node and all
behind it the back.  It is asked again for what is left, until it refuses nothing that could stand outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from repurpose_hpc.model.ends import Ends, Port, Subgraph
from repurpose_hpc.model.ends.elementwise import DTYPES
from repurpose_hpc.model.importers.onnx import (
    nodes_elementwise,
    nodes_joining,
    nodes_layout,
    nodes_normalisation,
    nodes_reduction,
    nodes_selection,
)
from repurpose_hpc.model.importers.onnx.file import Graph
from repurpose_hpc.model.importers.onnx.refusal import Refusal, operator_of
from repurpose_hpc.model.importers.onnx.relations import Relations, reads
from repurpose_hpc.model.importers.onnx.scores import Scores
from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported, Value
from repurpose_hpc.model.importers.onnx.subgraphs import Nodes

if TYPE_CHECKING:
    from repurpose_hpc.model.network import Network


class Evaluated(Protocol):
    """A graph that the importer was asked for."""

    @property
    def refusals(self) -> list[Refusal]:
        """Of nodes."""

    @property
    def moves(self) -> list[Refusal]:
        """Nodes for which neurons are moved."""

    @property
    def values(self) -> Mapping[str, Value | Scores | None]:
        """What is known of tensors, by name."""

    def network(self) -> Network:
        """The network, where nothing is refused."""

    def tensor_values(self, inputs: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """Tensors as the network computes them, from its inputs, neuron-major."""


# Bring values to other places, or to sums over places of any kind.
_LAYOUTS = frozenset(
    (*nodes_layout.OPERATORS, *nodes_joining.OPERATORS, *nodes_selection.OPERATORS, "Softmax")
)
_SUMS = frozenset((*nodes_reduction.OPERATORS, *nodes_normalisation.OPERATORS)) - {"Softmax"}
# Constants of so many values at most may be shapes.
_MOST_SIZES = 64

Evaluate = Callable[[Graph], Evaluated]


@dataclass(frozen=True)
class _Places:
    """Nodes outside the middle, by their places in the graph."""

    front: frozenset[int] = frozenset()
    back: frozenset[int] = frozenset()

    def with_end(self, end: str, nodes: frozenset[int]) -> _Places:
        """The places with more nodes at one end, ``front`` or ``back``; as they are where it is ""."""
        return replace(self, **{end: getattr(self, end) | nodes}) if end else self


@dataclass(frozen=True, eq=False)
class Divided:
    """A graph in its parts.

    Attributes:
        evaluation: of the middle.
        middle: the graph that is left.
        refusals: of nodes that stand neither before nor behind all weights, or cannot be computed there.
        ends: front and back, where nothing is refused.
        places: of their nodes.
    """

    evaluation: Evaluated
    middle: Graph
    refusals: list[Refusal]
    ends: Ends = Ends()
    places: _Places = _Places()


def divide(graph: Graph, evaluate: Evaluate) -> Divided:
    """A graph in its parts; ``evaluate`` asks the importer for one."""
    graph = _without_zipmaps(graph)
    evaluation = evaluate(graph)
    live = _live(graph)
    if evaluation.refusals and len(live.nodes) < len(graph.nodes):
        graph, evaluation = live, evaluate(live)
    if not evaluation.refusals and not evaluation.moves:
        return Divided(evaluation, graph, [])
    relations = Relations(graph, _constants(graph, evaluation))
    if not relations.trained:
        return Divided(evaluation, graph, evaluation.refusals)
    divided = _Division(relations, evaluate, evaluation).divided()
    if divided.refusals:
        return divided
    return _Division(relations, evaluate, divided.evaluation, divided.places).without_moves() or divided


def _without_zipmaps(graph: Graph) -> Graph:
    """The graph without nodes that turn rows of values into dictionaries; outputs are the rows."""
    rows = {
        proto.output[0]: proto.input[0] for proto in graph.nodes if operator_of(proto) == "ai.onnx.ml.ZipMap"
    }
    if not rows:
        return graph
    nodes = tuple(proto for proto in graph.nodes if proto.output[0] not in rows)
    return replace(graph, nodes=nodes, outputs=tuple(rows.get(name, name) for name in graph.outputs))


def _live(graph: Graph) -> Graph:
    """The graph without nodes of which no output makes use."""
    used, nodes = set(graph.outputs), []
    for proto in reversed(graph.nodes):
        if used.intersection(proto.output):
            used.update(reads(proto))
            nodes.append(proto)
    return replace(graph, nodes=tuple(reversed(nodes)))


def _constants(graph: Graph, evaluation: Evaluated) -> dict[str, np.ndarray]:
    """Tensors that depend on nothing of the input, not even on the number of samples."""
    depend = set(graph.inputs)
    for proto in graph.nodes:
        if depend.intersection(reads(proto)):
            depend.update(proto.output)
    values = evaluation.values.items()
    return {name: value for name, value in values if isinstance(value, np.ndarray) and name not in depend}


class _Division:
    """The search for the parts.

    Attributes:
        middle: what is left of the graph, as it is at the moment.
        evaluation: of it.
        places: outside of it.
        moved: refusals of the nodes for whose sake something was moved out of it.
    """

    def __init__(
        self,
        relations: Relations,
        evaluate: Evaluate,
        evaluation: Evaluated,
        places: _Places = _Places(),  # noqa: B008 (it is immutable)
    ) -> None:
        self.relations, self.evaluate, self.evaluation = relations, evaluate, evaluation
        self.places, self.middle = places, relations.graph
        self.moved: dict[str, list[Refusal]] = {"front": [], "back": []}
        self.front: Subgraph | None = None

    def divided(self) -> Divided:
        """All parts."""
        while self.evaluation.refusals:
            places = self._enlarged()
            if places == self.places:
                return Divided(self.evaluation, self.middle, self.evaluation.refusals)
            self.places = places
            try:
                self._evaluate_middle()
            except Unsupported as error:
                return self._refused("front", error)
        try:
            return Divided(self.evaluation, self.middle, [], Ends(self.front, self._back()), self.places)
        except Unsupported as error:
            return self._refused("back", error)

    def without_moves(self) -> Divided | None:
        """All parts, with what moves neurons at an end outside the middle; None: there is no such thing.

        There it costs no exchange.
        """
        places = self._freed()
        if places == self.places:
            return None
        self.places = places
        try:
            self._evaluate_middle()
        except Unsupported:
            return None
        divided = self.divided()
        return None if divided.refusals else divided

    def _freed(self) -> _Places:
        """The places, with layouts before or behind all weights for which neurons would be moved."""
        relations, places = self.relations, self.places
        for move in self.evaluation.moves:
            place = relations.maker.get(move.tensor)
            if place in relations.nodes and (place in relations.trained or self._is_layout(place)):
                end, nodes = self._end_of(place)
                if end:
                    self.moved[end].append(move)
                    places = places.with_end(end, nodes)
        return places

    def _enlarged(self) -> _Places:
        """The places, with nodes that are refused and can be outside the middle."""
        places = self.places
        for refusal in self.evaluation.refusals:
            place = self.relations.maker[refusal.tensor]
            if place not in self.relations.nodes:
                continue  # of constants alone
            end, nodes = self._end_of(place)
            if end:
                self.moved[end].append(refusal)
                places = places.with_end(end, nodes)
        return places

    def _end_of(self, place: int) -> tuple[str, frozenset[int]]:
        """The end at which a node can be, and the nodes to be there for its sake; "": there is none."""
        relations = self.relations
        before, own = relations.before(place), {place} - relations.trained
        if not before & relations.trained:
            return "front", before | own
        if own and not (behind := relations.behind(place)) & relations.trained:
            return "back", behind | own
        return "", frozenset()

    def _is_layout(self, place: int) -> bool:
        """Tell whether a node brings values elsewhere, or takes values one by one that are elsewhere."""
        relations = self.relations
        operators = [operator_of(relations.graph.nodes[each]) for each in (place, *relations.before(place))]
        sums = any(operator in _SUMS for operator in operators)  # of a normalisation that is written out
        return operators[0] in _LAYOUTS or (operators[0] in nodes_elementwise.OPERATORS and not sums)

    def _evaluate_middle(self) -> None:
        """Ask the importer for what is left.

        Raises:
            Unsupported: the front cannot be computed.
        """
        self._find_front()
        self.middle = self._middle()
        self.evaluation = self.evaluate(self.middle)

    def _refused(self, end: str, error: Unsupported) -> Divided:
        """The refusals for whose sake there is an end that cannot be computed."""
        where = {"front": "before", "back": "behind"}[end]
        reason = f"; nor can what stands {where} the weights be computed by itself: {error}"
        return Divided(
            self.evaluation,
            self.middle,
            [replace(refusal, reason=refusal.reason + reason) for refusal in self.moved[end]],
        )

    def _outputs(self) -> list[str]:
        """The tensors that the middle must make."""
        relations, graph = self.relations, self.relations.graph
        made = relations.made_by(self.places.back)
        read = [name for name in relations.read_by(self.places.back) if name not in made]
        return list(dict.fromkeys([*read, *(name for name in graph.outputs if name not in made)]))

    def _middle_nodes(self) -> list[int]:
        outside = self.places.front | self.places.back
        return [place for place in self.relations.nodes if place not in outside]

    def _inputs(self) -> list[str]:
        """The tensors of which the middle is made: inputs of the model, and what the front makes."""
        relations, nodes = self.relations, self._middle_nodes()
        with_shapes = [*nodes, *relations.shape_nodes(nodes)]
        made = relations.made_by(nodes)
        read = [*relations.read_by(with_shapes), *self._outputs()]
        back = relations.made_by(self.places.back)
        return list(dict.fromkeys(name for name in read if name not in made | back))

    def _find_front(self) -> None:
        """Make the front, with as many nodes as it takes that what it makes has neurons.

        Raises:
            Unsupported: it cannot be computed, or single numbers of it meet what the network makes.
        """
        self.front = self._front() if self.places.front else None
        numbers = [port.name for port in self.front.outputs if not port.shape] if self.front else []
        if not numbers:
            return
        relations, front = self.relations, self.places.front
        for place in self._middle_nodes():
            if {*numbers}.intersection(reads(relations.graph.nodes[place])):
                front = front | relations.before(place) | {place}
        if front & relations.trained or front == self.places.front:
            raise Unsupported(f"{numbers[0]!r} has no axis but that of the samples")
        self.places = replace(self.places, front=front)
        self._find_front()

    def _front(self) -> Subgraph:
        graph = self.relations.graph
        ports = [
            Port(name, shape[1:], _dtype(graph.types[name], name)) for name, shape in graph.inputs.items()
        ]
        return Nodes(self.relations, self.places.front, ports, {}).subgraph(self._numbers(self._inputs()))

    def _middle(self) -> Graph:
        """The graph of the middle."""
        relations, graph, nodes = self.relations, self.relations.graph, self._middle_nodes()
        inputs = dict(graph.inputs)
        if self.front is not None:
            samples = next(iter(graph.inputs.values()))[0]
            inputs = {port.name: (samples, *port.shape) for port in self.front.outputs}
        chosen = sorted({*nodes, *relations.shape_nodes(nodes)})
        return replace(
            graph,
            nodes=tuple(graph.nodes[place] for place in chosen),
            constants=dict(relations.constants),
            inputs=inputs,
            outputs=tuple(self._outputs()) if self.places.back else graph.outputs,
        )

    def _back(self) -> Subgraph | None:
        if not self.places.back:
            return None
        graph, values = self.relations.graph, self.evaluation.values
        shapes = {name: value.shape[1:] for name, value in values.items() if isinstance(value, Signal)}
        types = {name: kind for name, (kind, _) in inferred(graph).items()}
        outside = {port.name: port for port in self.front.outputs} if self.front else {}
        ports = []
        for name in self._outputs():
            if name not in shapes:
                raise Unsupported(f"it reads {name!r}, which does not depend on the input")
            port = outside.get(name) or Port(name, shapes[name], _dtype(types.get(name, 1), name))
            if port.kind != "f":
                raise Unsupported(f"it reads {name!r}, {port.dtype} that do not come out of the network")
            ports.append(port)
        return Nodes(self.relations, self.places.back, ports, shapes).subgraph(self._numbers(graph.outputs))

    def _numbers(self, names: Sequence[str]) -> Sequence[str]:
        """``names``, which must be of tensors of numbers that NumPy knows: others arrive as their bits."""
        types = inferred(self.relations.graph)
        for name in names:
            _dtype(types[name][0] if name in types else 1, name)
        return names


def _dtype(element_type: int, name: str) -> str:
    """NumPy's name of one of ONNX's element types."""
    if element_type not in DTYPES:
        raise Unsupported(f"{name!r} has element type {element_type}, expected numbers that NumPy knows")
    return DTYPES[element_type]


def inferred(graph: Graph) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Element types and shapes of tensors, as far as ONNX can tell; 0 for a size that it cannot."""
    from onnx import helper, numpy_helper, shape_inference

    infos = [
        helper.make_tensor_value_info(name, graph.types.get(name, 1), shape)
        for name, shape in graph.inputs.items()
    ]
    constants = []
    for name, array in graph.constants.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        infos.append(helper.make_tensor_value_info(name, kind, array.shape))
        if array.size <= _MOST_SIZES:
            constants.append(numpy_helper.from_array(array, name))
    body = helper.make_graph(graph.nodes, "graph", infos, [], constants)
    domains = {"": graph.opset, **graph.domains}
    imports = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    model = helper.make_model(body, opset_imports=imports, ir_version=10)
    model = shape_inference.infer_shapes(model, data_prop=True)
    types = {info.name: info.type.tensor_type for info in (*model.graph.input, *model.graph.value_info)}
    return {
        name: (kind.elem_type, tuple(dimension.dim_value for dimension in kind.shape.dim))
        for name, kind in types.items()
    }


def behind(graph: Graph, refusals: Sequence[Refusal], evaluate: Evaluate) -> list[Refusal]:
    """Refusals of nodes behind refused ones, as if the outputs of those were inputs."""
    shapes = {name: shape for name, (_, shape) in inferred(graph).items() if shape[1:] and 0 not in shape}
    known, latest = [*refusals], [*refusals]
    while latest:
        graph = _without(graph, {refusal.tensor for refusal in latest}, shapes)
        names = {refusal.tensor for refusal in known}
        latest = [refusal for refusal in evaluate(graph).refusals if refusal.tensor not in names]
        known += latest
    return known[len(refusals) :]


def _without(graph: Graph, tensors: set[str], shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """The graph with the outputs of some nodes as inputs, without what depends on those of unknown shape."""
    inputs, nodes, unknown = dict(graph.inputs), [], set()
    for proto in graph.nodes:
        if tensors.intersection(proto.output):
            made = {name for name in proto.output if name}
            inputs |= {name: shapes[name] for name in made & shapes.keys()}
            unknown |= made - shapes.keys()
        elif unknown.intersection(reads(proto)):
            unknown.update(proto.output)
        else:
            nodes.append(proto)
    outputs = tuple(name for name in graph.outputs if name not in unknown | inputs.keys())
    return replace(graph, nodes=tuple(nodes), inputs=inputs, outputs=outputs)
