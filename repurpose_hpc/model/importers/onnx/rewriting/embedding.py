"""Embeddings that ONNX Runtime's transformer optimiser has made one node of.

They are taken apart before a graph is evaluated: what reads integers can stand before the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.model.importers.onnx.rewriting.nodes import Nodes

if TYPE_CHECKING:
    import onnx

_OPERATOR = ("com.microsoft", "EmbedLayerNormalization")
_EPSILON = 1e-12
# Its inputs, in their order.
_INPUTS = (
    *("words", "segments", "word_table", "position_table", "segment_table", "scale", "shift", "mask"),
    "positions",
)


def with_embeddings_apart(nodes: Iterable[onnx.NodeProto], opset: int) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph, those in place of an EmbedLayerNormalization that compute the same."""
    for proto in nodes:
        if (proto.domain, proto.op_type) == _OPERATOR:
            yield from _embedding(proto, opset)
        else:
            yield proto


def _embedding(proto: onnx.NodeProto, opset: int) -> Nodes:
    """Rows of tables, their sum, and its normalisation; the number of words where there is a mask."""
    nodes = Nodes(proto.name or proto.output[0], opset)
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
