"""The graph of a transformer for sequences of any length: ids in, a row for each of them out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.model.importers.onnx.file import Graph, graph_of, inputs_in, inputs_of, read_model
from repurpose_hpc.model.importers.onnx.refusal import operator_of
from repurpose_hpc.model.importers.onnx.relations import reads
from repurpose_hpc.model.importers.onnx.rewriting.branches import nodes_of_branch
from repurpose_hpc.model.importers.onnx.rewriting.nodes import Nodes
from repurpose_hpc.model.importers.onnx.tokens.inputs import (
    ATTENTION,
    CACHE_BRANCH,
    IDS,
    INTEGERS,
    Inputs,
)
from repurpose_hpc.model.importers.onnx.tokens.padding import without_padding

if TYPE_CHECKING:
    import onnx

# Outputs with a row for each token, the preferred first.
_ROWS = ("logits", "last_hidden_state")
# Names of outputs that a note has.
_MOST_SHOWN = 3


@dataclass(frozen=True, eq=False)
class TokenGraph:
    """A graph for sequences of any length.

    Attributes:
        graph: for one sequence; its inputs' sizes are not those of any.
        inputs: those of the file; the ids alone are left.
        place: of the output among those of the file.
        padding: the id that is taken for padding, which no text has; None: there is none.
    """

    graph: Graph
    inputs: Inputs
    place: int
    padding: int | None

    @classmethod
    def read(cls, path: Path) -> TokenGraph:
        """The graph in an ONNX file; a note says which inputs are constants, and which outputs are left out.

        Raises:
            UserError: the file cannot be read, has other inputs or outputs, or is for one length.
        """
        from onnx.numpy_helper import from_array

        model = read_model(path)
        inputs = inputs_of(model)
        if not inputs or not model.graph.output:
            raise UserError(f"{path}: expected inputs and outputs, found none; export the model again")
        known = Inputs.of(path, model.graph, inputs)
        for name, past in known.pasts.items():
            model.graph.initializer.append(from_array(past.empty(1), name))
        if known.has_cache_branch:
            _decide(model)
        graph = graph_of(model, path, {name: (1,) for name in (known.ids, *known.filled)})
        place = _output(path, model.graph.output)
        nodes = [node for name in known.filled for node in _filling(name, known, graph)]
        graph = replace(
            graph,
            nodes=(*nodes, *_needed(graph.nodes, model.graph.output[place].name)),
            inputs={known.ids: (1, 1)},
            types={known.ids: graph.types[known.ids]},
            outputs=(graph.outputs[place],),
        )
        graph, padding = without_padding(graph, known.ids)
        _say(path, known, [item.name for item in model.graph.output], place, padding)
        return cls(graph, known, place, padding)

    def at(self, length: int) -> Graph:
        """The graph for one sequence of so many tokens."""
        return replace(self.graph, inputs={self.inputs.ids: (1, length)})


def _decide(model: onnx.ModelProto) -> None:
    """Take the branches of a merged decoder in which there are no earlier tokens."""
    from onnx.helper import get_attribute_value
    from onnx.numpy_helper import from_array

    model.graph.initializer.append(from_array(np.array([False]), CACHE_BRANCH))
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "If" and node.input[0] == CACHE_BRANCH:
            branches = {each.name: get_attribute_value(each) for each in node.attribute}
            nodes += nodes_of_branch(node, branches["else_branch"])
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def reads_ids(path: Path) -> bool:
    """Whether a file is an ONNX model of ids, with an axis of tokens that is free unless it is so called.

    Raises:
        UserError: the ``onnx`` package is missing.
    """
    return any(item.name == IDS for item in inputs_in(path)) or has_free_tokens(path)


def has_free_tokens(path: Path) -> bool:
    """Whether a file is an ONNX model of ids with an axis of tokens that is free.

    Raises:
        UserError: the ``onnx`` package is missing.
    """
    inputs = inputs_in(path)
    named = [item for item in inputs if item.name == IDS]
    kinds = [item.type.tensor_type for item in named or inputs]
    return len(kinds) == 1 and all(
        len(kind.shape.dim) == 2 and not kind.shape.dim[1].dim_value and kind.elem_type in INTEGERS
        for kind in kinds
    )


def _output(path: Path, outputs: Sequence[onnx.ValueInfoProto]) -> int:
    """The place of the output that has a row for each token.

    Raises:
        UserError: none has, or several may.
    """
    names = [item.name for item in outputs]
    named = [names.index(name) for name in _ROWS if name in names]
    of_three_axes = [place for place, item in enumerate(outputs) if len(item.type.tensor_type.shape.dim) == 3]
    places = named[:1] or (of_three_axes if names[1:] else [0])
    if len(places) != 1:
        raise UserError(
            f"{path}: expected one output with a row for each token, such as {' or '.join(_ROWS)}, found "
            f"{', '.join(names)}; export the model with one of them"
        )
    return places[0]


def _needed(nodes: Sequence[onnx.NodeProto], output: str) -> list[onnx.NodeProto]:
    """The nodes on which an output depends, in order; of attention only outputs that are read stay."""
    from onnx import NodeProto

    used, found = {output}, []
    for node in reversed(nodes):
        if not used.intersection(node.output):
            continue
        used.update(reads(node))
        if operator_of(node) in ATTENTION:
            kept = NodeProto()
            kept.CopyFrom(node)
            kept.output[:] = [name if name in used else "" for name in node.output]
            node = kept
        found.append(node)
    return found[::-1]


def _filling(name: str, inputs: Inputs, graph: Graph) -> Iterator[onnx.NodeProto]:
    """Nodes that make what an input of the shape of the ids holds where nothing is padded."""
    from onnx.helper import tensor_dtype_to_np_dtype
    from onnx.numpy_helper import from_array

    nodes, number = Nodes(f"{name}.filled", graph.opset), inputs.filled[name]
    dtype = tensor_dtype_to_np_dtype(graph.types[name])
    shape = nodes.add("Shape", inputs.ids)
    if number is None:
        zero, one = (nodes.constant(np.array(each)) for each in (0, 1))
        positions = nodes.add("Range", zero, nodes.add("Gather", shape, one, axis=0), one)
        nodes.add("Cast", nodes.add("Expand", positions, shape), output=name, to=graph.types[name])
    else:
        nodes.add("ConstantOfShape", shape, output=name, value=from_array(np.array([number], dtype)))
    return iter(nodes)


def _say(path: Path, inputs: Inputs, names: Sequence[str], place: int, padding: int | None) -> None:
    """Note what the network does without."""
    texts = inputs.notes()
    if padding is not None:
        texts.append(f"id {padding} stands for padding, which texts do not have: it is refused in them")
    left_out = [name for other, name in enumerate(names) if other != place]
    if left_out:
        shown = left_out if len(left_out) <= _MOST_SHOWN else [left_out[0], f"{len(left_out) - 1} more"]
        texts.append(f"of the outputs it has {names[place]}, not {', '.join(shown)}")
    if texts:
        warnings.warn(f"{path}: {'; '.join(texts)}", Note, stacklevel=4)
