"""Relations between the nodes of an ONNX graph: which depend on which, and which have trained weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.model.importers.onnx import nodes_mixing
from repurpose_hpc.model.importers.onnx.file import Graph
from repurpose_hpc.model.importers.onnx.refusal import operator_of

if TYPE_CHECKING:
    import onnx

# Read of a tensor no more than its shape.
_SHAPES = frozenset(("Shape", "Size"))
# Bring values of a sample together with trained weights: what the project restructures, or would have to.
_MIXING = frozenset(
    (
        *nodes_mixing.OPERATORS,
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "DeformConv", "LSTM", "GRU", "RNN"),
        *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "Attention"),
    )
)
_OWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
# Of ai.onnx.ml, with weights in attributes.
_LEARNED = ("Linear", "SVM", "TreeEnsemble")


class Relations:
    """The nodes of a graph, by their places in it.

    A *data* node reads values of the input, at least through other nodes; constants and shapes are none.

    Args:
        graph: what they are of.
        constants: tensors that are known without data, by name.

    Attributes:
        maker: tensor -> the node that makes it.
        data: names of the tensors that data nodes make, and of the inputs.
        nodes: the data nodes.
        trained: those of them with trained weights.
    """

    def __init__(self, graph: Graph, constants: Mapping[str, np.ndarray]) -> None:
        self.graph, self.constants = graph, constants
        self.maker = {
            tensor: place for place, proto in enumerate(graph.nodes) for tensor in proto.output if tensor
        }
        self.data, data_nodes = set(graph.inputs), []
        for place, proto in enumerate(graph.nodes):
            if operator_of(proto) not in _SHAPES and self.data.intersection(reads(proto)):
                data_nodes.append(place)
                self.data.update(filter(None, proto.output))
        self.nodes = tuple(data_nodes)
        self.trained = {place for place in self.nodes if self._is_trained(graph.nodes[place])}

    def before(self, place: int) -> frozenset[int]:
        """The data nodes on whose values a node depends."""
        return self._before[place]

    def behind(self, place: int) -> frozenset[int]:
        """The data nodes that depend on the values of a node."""
        return frozenset(other for other in self.nodes if place in self._before[other])

    def read_by(self, places: Iterable[int]) -> list[str]:
        """The data tensors that nodes read, each once, in order."""
        read = (name for place in sorted(places) for name in reads(self.graph.nodes[place]))
        return list(dict.fromkeys(name for name in read if name in self.data))

    def made_by(self, places: Iterable[int]) -> set[str]:
        """The tensors that nodes make."""
        return {tensor for place in places for tensor in self.graph.nodes[place].output if tensor}

    def shape_nodes(self, places: Iterable[int]) -> list[int]:
        """The nodes between the shapes of tensors and what ``places`` read of them."""
        found: set[int] = set()
        waiting = [name for place in places for name in reads(self.graph.nodes[place])]
        while waiting:
            name = waiting.pop()
            place = self.maker.get(name)
            if place is None or place in found or name in self.data or name in self.constants:
                continue
            found.add(place)
            waiting += reads(self.graph.nodes[place])
        return sorted(found)

    @cached_property
    def _before(self) -> dict[int, frozenset[int]]:
        before: dict[int, frozenset[int]] = {}
        for place in self.nodes:
            makers = {self.maker[name] for name in self.read_by((place,)) if name in self.maker}
            before[place] = frozenset(makers).union(*(before[maker] for maker in makers))
        return before

    def _is_trained(self, proto: onnx.NodeProto) -> bool:
        operator = operator_of(proto)
        if proto.domain == "ai.onnx.ml":
            return proto.op_type.startswith(_LEARNED)
        constants = [name for name in reads(proto) if name not in self.data]
        if operator in _MIXING:
            return bool(constants)
        if proto.domain in _OWN_DOMAINS:
            return False
        return any(name in self.constants and self.constants[name].ndim > 1 for name in constants)


def reads(proto: onnx.NodeProto) -> Iterator[str]:
    """The tensors that a node reads, those of graphs in its attributes (If, Loop) included."""
    yield from filter(None, proto.input)
    for attribute in proto.attribute:
        for body in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
            inside = {item.name for item in (*body.input, *body.initializer)}
            for node in body.node:
                yield from (name for name in reads(node) if name not in inside)
                inside.update(node.output)
