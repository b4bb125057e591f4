"""The id that stands for padding, where a graph compares ids with it.

Some families count positions of ids that are no padding (RoBERTa), or hide padding by themselves.  Texts have
none here.  So the comparison is false, positions are those of any other text, and the id is refused in texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.importers.onnx.constants import fold
from repurpose_hpc.model.importers.onnx.file import Graph
from repurpose_hpc.model.importers.onnx.rewriting.nodes import Nodes

if TYPE_CHECKING:
    import onnx

# ONNX's numbers of the types that hold every id: float32, int32, int64 and float64.
_WIDE = (1, 6, 7, 11)
_AXES = 2  # of ids


def without_padding(graph: Graph, ids: str) -> tuple[Graph, int | None]:
    """A graph in which no id is padding, and the id that is; None where ids are compared with none.

    Args:
        graph: of which everything is needed.
        ids: name of the input.

    Raises:
        UserError: ids are compared with several.
    """
    numbers, same = dict(graph.constants), {ids}
    nodes: list[onnx.NodeProto] = []
    compared: set[int] = set()
    for node in graph.nodes:
        number = _compared(node, same, numbers)
        if number is not None:
            compared.add(number)
            nodes += _nowhere(node, ids, graph.opset)
            continue
        nodes.append(node)
        if node.op_type == "Constant":
            (value,) = fold(node, (), graph.opset)
            numbers |= {node.output[0]: value} if isinstance(value, np.ndarray) else {}
        if _gives_as_is(node) and node.input[0] in same:
            same.add(node.output[0])
        if _gives_as_is(node) and node.input[0] in numbers:
            numbers[node.output[0]] = numbers[node.input[0]]
    if len(compared) > 1:
        raise UserError(
            f"{graph.path}: expected ids that are compared with one at most, that of padding, found "
            f"{', '.join(map(str, sorted(compared)))}; export the model without what it does for others"
        )
    return replace(graph, nodes=tuple(nodes)), next(iter(compared), None)


def _gives_as_is(node: onnx.NodeProto) -> bool:
    """Whether ids, or numbers, are what they were: true and false are not, nor are those of a few bits."""
    wide = node.op_type == "Cast" and next(each.i for each in node.attribute if each.name == "to") in _WIDE
    return wide or node.op_type == "Identity"


def _compared(node: onnx.NodeProto, same: set[str], numbers: Mapping[str, np.ndarray]) -> int | None:
    """The number with which a node compares ids; None if it does nothing like it."""
    if node.op_type != "Equal" or len(same.intersection(node.input)) != 1:
        return None
    (other,) = (name for name in node.input if name not in same)
    array = numbers.get(other)
    if array is None or array.size != 1 or array.ndim > _AXES or not float(array.item()).is_integer():
        return None
    return int(array.item())


def _nowhere(node: onnx.NodeProto, ids: str, opset: int) -> Iterator[onnx.NodeProto]:
    """Nodes that make the output of a comparison which is false for all ids."""
    from onnx.numpy_helper import from_array

    nodes = Nodes(f"{node.output[0]}.nowhere", opset)
    nodes.add(
        "ConstantOfShape", nodes.add("Shape", ids), output=node.output[0], value=from_array(np.array([False]))
    )
    return iter(nodes)
