"""Nodes of ONNX Runtime's transformer optimiser that also look integers up in tables.

They are taken apart before a graph is evaluated: what reads integers can stand before the network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.model.importers.onnx.rewriting.nodes import Nodes

if TYPE_CHECKING:
    import onnx

_DOMAIN = "com.microsoft"
_EPSILON = 1e-12
# Inputs of EmbedLayerNormalization, in their order.
_INPUTS = (
    *("words", "segments", "word_table", "position_table", "segment_table", "scale", "shift", "mask"),
    "positions",
)


def with_lookups_apart(
    nodes: Iterable[onnx.NodeProto], inputs: Collection[str], opset: int
) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph, with others in place of some that compute the same.

    Args:
        nodes: topologically ordered.
        inputs: names of the graph's inputs.
        opset: version of ONNX's own operators.
    """
    rows: dict[tuple[str, str], str] = {}
    for proto in nodes:
        operator = proto.op_type if proto.domain == _DOMAIN else ""
        if operator == "EmbedLayerNormalization":
            yield from _embedding(proto, opset)
        elif operator == "RotaryEmbedding" and proto.input[1] in inputs:
            yield from _with_rows(proto, rows, opset)
        else:
            yield proto


def _with_rows(
    proto: onnx.NodeProto, rows: dict[tuple[str, str], str], opset: int
) -> Iterator[onnx.NodeProto]:
    """A RotaryEmbedding that reads the rows of its tables themselves, without positions.

    Args:
        proto: the node.
        rows: by positions and table, what nodes before have looked up; more is added.
        opset: version of ONNX's own operators.
    """
    from onnx import NodeProto

    nodes, positions = Nodes(f"{proto.output[0]}.rows", opset), proto.input[1]
    for table in proto.input[2:4]:
        if (positions, table) not in rows:
            rows[positions, table] = nodes.add("Gather", table, positions)
    yield from nodes
    copy = NodeProto()
    copy.CopyFrom(proto)
    copy.input[1:] = ["", *(rows[positions, table] for table in proto.input[2:4])]
    yield copy


def _embedding(proto: onnx.NodeProto, opset: int) -> Nodes:
    """Rows of tables, their sum, and its normalisation; the number of words where there is a mask."""
    nodes = Nodes(proto.output[0], opset)
    given = dict(zip(_INPUTS, [*proto.input, *[""] * len(_INPUTS)], strict=False))
    output, count, total = [*proto.output, "", "", ""][:3]
    words = nodes.add("Gather", given["word_table"], given["words"])
    if given["positions"]:
        positions = nodes.add("Gather", given["position_table"], given["positions"])
    else:
        zero, one, two = (nodes.constant(np.array([number])) for number in range(3))
        length = nodes.add("Slice", nodes.add("Shape", given["words"]), one, two)
        positions = nodes.add("Slice", given["position_table"], zero, length, zero)
    summed = nodes.add("Add", words, positions)
    if given["segments"]:
        segments = nodes.add("Gather", given["segment_table"], given["segments"])
        summed = nodes.add("Add", summed, segments)
    if total:
        nodes.add("Identity", summed, output=total)
    epsilon = next((each.f for each in proto.attribute if each.name == "epsilon"), _EPSILON)
    affine = (given["scale"], given["shift"])
    nodes.add("LayerNormalization", summed, *affine, output=output, epsilon=epsilon)
    if count and given["mask"]:
        ones = nodes.add("Equal", given["mask"], nodes.constant(np.int32(1)))
        floats = nodes.add("Cast", ones, to=1)
        of_words = [nodes.constant(np.array([1]))] if opset >= 13 else []
        attributes = {} if opset >= 13 else {"axes": [1]}
        nodes.add("ReduceSum", floats, *of_words, output=count, keepdims=0, **attributes)
    return nodes
