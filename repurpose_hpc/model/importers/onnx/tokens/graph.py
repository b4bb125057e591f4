"""The graph of a transformer for sequences of any length: ids in, a row for each of them out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.errors import Note, UserError
from repurpose_hpc.model.importers.onnx.file import Graph, graph_of, inputs_in, inputs_of, read_model
from repurpose_hpc.model.importers.onnx.rewriting.nodes import Nodes

if TYPE_CHECKING:
    import onnx

IDS = "input_ids"
# Inputs beside the ids, of their shape, and what they hold where nothing is padded: a number, or positions.
_FILLED: Mapping[str, int | None] = {"attention_mask": 1, "token_type_ids": 0, "position_ids": None}
# Outputs with a row for each token, the preferred first.
_ROWS = ("logits", "last_hidden_state")
_INTEGERS = (6, 7)  # ONNX's numbers of int32 and int64


@dataclass(frozen=True, eq=False)
class TokenGraph:
    """A graph for sequences of any length.

    Attributes:
        graph: for one sequence; its inputs' sizes are not those of any.
        ids: name of the input that is left.
        filled: the inputs that constants took the place of, by name, see ``_FILLED``.
        place: of the output among those of the file.
    """

    graph: Graph
    ids: str
    filled: Mapping[str, int | None]
    place: int

    @classmethod
    def read(cls, path: Path) -> TokenGraph:
        """The graph in an ONNX file; a note says which inputs are constants, and which outputs are left out.

        Raises:
            UserError: the file cannot be read, has other inputs or outputs, or is for one length.
        """
        model = read_model(path)
        inputs = inputs_of(model)
        if not inputs or not model.graph.output:
            raise UserError(f"{path}: expected inputs and outputs, found none; export the model again")
        ids = _ids(path, inputs)
        filled = {item.name: _FILLED[item.name] for item in inputs if item.name != ids.name}
        graph = graph_of(model, path, {item.name: (1,) for item in inputs})
        place = _output(path, model.graph.output)
        nodes = [node for name in filled for node in _filling(name, ids.name, graph)]
        graph = replace(
            graph,
            nodes=(*nodes, *graph.nodes),
            inputs={ids.name: (1, 1)},
            types={ids.name: graph.types[ids.name]},
            outputs=(graph.outputs[place],),
        )
        _say(path, filled, [item.name for item in model.graph.output], place)
        return cls(graph, ids.name, filled, place)

    def at(self, length: int) -> Graph:
        """The graph for one sequence of so many tokens."""
        return replace(self.graph, inputs={self.ids: (1, length)})

    def feeds(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """All inputs of the file for ids (sequences, tokens)."""
        positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        others = {
            name: positions if number is None else np.full_like(ids, number)
            for name, number in self.filled.items()
        }
        return {self.ids: ids, **others}


def reads_ids(path: Path) -> bool:
    """Whether a file is an ONNX model of ids, with an axis of tokens that is free unless it is so called.

    Raises:
        UserError: the ``onnx`` package is missing.
    """
    inputs = inputs_in(path)
    if any(item.name == IDS for item in inputs):
        return True
    kinds = [item.type.tensor_type for item in inputs]
    return len(kinds) == 1 and all(
        len(kind.shape.dim) == 2 and not kind.shape.dim[1].dim_value and kind.elem_type in _INTEGERS
        for kind in kinds
    )


def _ids(path: Path, inputs: Sequence[onnx.ValueInfoProto]) -> onnx.ValueInfoProto:
    """The input of the ids.

    Raises:
        UserError: there is none, others are not known, or one has another shape, or a length.
    """
    ids = next((item for item in inputs if item.name == IDS), inputs[0])
    names = [item.name for item in inputs]
    others = [name for name in names if name not in (IDS, *_FILLED)] if names[1:] else []
    if names[1:] and IDS not in names:
        others = others or names
    if others:
        more = f" and {len(others) - 1} more" if others[1:] else ""
        raise UserError(
            f"{path}: expected the inputs {IDS} and perhaps {', '.join(_FILLED)}, found {others[0]!r}{more}; "
            "export the model without it (without a cache of keys and values, which is kept here)"
        )
    if ids.type.tensor_type.elem_type not in _INTEGERS:
        raise UserError(
            f"{path}: expected integers as input {ids.name!r}, ids of tokens, found other numbers"
        )
    for item in inputs:
        sizes = item.type.tensor_type.shape.dim
        if len(sizes) != 2:
            raise UserError(
                f"{path}: input {item.name!r}: expected two axes, sequences and tokens, found {len(sizes)}; "
                "export the model so"
            )
        if sizes[1].dim_value:
            raise UserError(
                f"{path}: input {item.name!r}: expected an axis of tokens that is free, found one of "
                f"{sizes[1].dim_value}; export the model with a dynamic axis, or use it with samples of that "
                "length (restructure with --calibration)"
            )
    return ids


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


def _filling(name: str, ids: str, graph: Graph) -> Iterator[onnx.NodeProto]:
    """Nodes that make what an input of the shape of the ids holds where nothing is padded."""
    from onnx.helper import tensor_dtype_to_np_dtype
    from onnx.numpy_helper import from_array

    nodes, number = Nodes(f"{name}.filled", graph.opset), _FILLED[name]
    dtype = tensor_dtype_to_np_dtype(graph.types[name])
    shape = nodes.add("Shape", ids)
    if number is None:
        zero, one = (nodes.constant(np.array(each)) for each in (0, 1))
        positions = nodes.add("Range", zero, nodes.add("Gather", shape, one, axis=0), one)
        nodes.add("Cast", nodes.add("Expand", positions, shape), output=name, to=graph.types[name])
    else:
        nodes.add("ConstantOfShape", shape, output=name, value=from_array(np.array([number], dtype)))
    return iter(nodes)


def _say(path: Path, filled: Mapping[str, int | None], names: Sequence[str], place: int) -> None:
    """Note what the network does without."""
    words = {None: "positions from 0", 0: "zeros", 1: "ones"}
    texts = [f"input {name} is {words[number]}, as nothing is padded" for name, number in filled.items()]
    left_out = [name for other, name in enumerate(names) if other != place]
    if left_out:
        texts.append(f"of the outputs it has {names[place]}, not {', '.join(left_out)}")
    if texts:
        warnings.warn(f"{path}: {'; '.join(texts)}", Note, stacklevel=4)
