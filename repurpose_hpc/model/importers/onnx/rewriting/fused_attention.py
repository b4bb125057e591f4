"""Attention as ONNX Runtime's transformer optimiser writes it, as ONNX's own operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.rewriting.fused import (
    add_all,
    is_on,
    one_row,
    shape_of,
    turned,
    without_outputs,
)
from repurpose_hpc.model.importers.onnx.rewriting.nodes import Nodes
from repurpose_hpc.model.importers.onnx.signal import Moved, Signal, Unsupported

if TYPE_CHECKING:
    import onnx

# Added to the scores of what is masked, by itself, and where no weight may be left.
_FILTER, _UNSEEN = -1e4, -1e30
# Inputs of GroupQueryAttention that are not understood.
_NOT_OF_GROUPS = {11: "sinks of heads", 14: "norms of queries", 15: "norms of keys"}
_NOT_OF_GROUPS[16] = "numbers of queries"


def attend_packed(proto: onnx.NodeProto, node: Node) -> Nodes:
    """Attention: one product makes queries, keys and values."""
    _without_caches(proto, node, (4, 6))
    node.require("do_rotary", 0)
    nodes = Nodes(node.name, node.opset)
    width = shape_of(node, 1)[1]
    widths = node.attributes.get("qkv_hidden_sizes") or [width // 3] * 3
    names = [*node.input_names, *[""] * 6]
    product = add_all(nodes, nodes.add("MatMul", *names[:2]), [*filter(None, names[2:3])])
    parts = _split(nodes, product, widths)
    return _attend(nodes, proto, node, parts, _mask(nodes, node, 3, _filter(node)), 5)


def attend(proto: onnx.NodeProto, node: Node) -> Nodes:
    """MultiHeadAttention: queries, keys and values, perhaps with biases that are added to them."""
    _without_caches(proto, node, (6, 7, 8, 9))
    ranks = [len(shape_of(node, place)) if node.input(place) is not None else 0 for place in range(3)]
    if ranks not in ([3, 3, 3], [3, 4, 4]):
        raise Unsupported(
            f"its queries, keys and values have {ranks} axes, expected three each, not packed, or four of "
            "keys and values; optimise the model without packed_qkv and packed_kv"
        )
    queries, keys = (shape_of(node, place)[-2] for place in (0, 1))
    if queries != keys:  # of the last query, onnxruntime hides nothing
        node.require("unidirectional", 0)
    nodes, parts = Nodes(node.name, node.opset), list(node.input_names[:3])
    if node.input(3) is not None:
        widths = [shape_of(node, place)[-1] for place in range(3)]
        widths = widths if ranks[1] == 3 else [widths[0], 0, 0]
        biases = np.split(node.weights(3), np.cumsum(widths)[:-1])
        parts = [
            nodes.add("Add", part, nodes.constant(bias)) if size else part
            for part, bias, size in zip(parts, biases, widths, strict=True)
        ]
    return _attend(nodes, proto, node, parts, _mask(nodes, node, 4, _filter(node)), 5)


def attend_grouped(proto: onnx.NodeProto, node: Node) -> Nodes:
    """GroupQueryAttention of whole sequences: fewer heads of keys and values; perhaps rotary positions."""
    _without_caches(proto, node, (3, 4), outputs=(3,))
    for name in ("smooth_softmax", "sliding_window_cache"):
        node.require(name, 0)
    for place, what in _NOT_OF_GROUPS.items():
        if node.input(place) is not None:
            raise Unsupported(
                f"{node.called(place)} has {what}, expected none; export the model without them"
            )
    nodes, (_, length, width) = Nodes(node.name, node.opset), shape_of(node, 0)
    if node.input(9) is not None and not np.array_equal(one_row(node, 9), np.arange(length)[None]):
        raise Unsupported(f"{node.called(9)} has other positions than 0 to {length - 1}; export it without")
    if node.number(6, length) != length:
        raise Unsupported(f"{node.called(6)} is {node.number(6, 0):g}, expected {length}, the whole sequence")
    H, G = node.attributes["num_heads"], node.attributes["kv_num_heads"]
    parts = list(node.input_names[:3])
    features = width // H
    if node.input(1) is None:
        features = width // (H + 2 * G)
        parts = _split(nodes, parts[0], [H * features, G * features, G * features])
    for place, heads in ((0, H), (1, G)):
        if is_on(node, "do_rotary"):
            parts[place] = turned(nodes, node, parts[place], heads, (7, 8), np.arange(length), features)
    for name, part in zip(proto.output[1:3], parts[1:], strict=False):
        if name:
            by_head = nodes.add("Reshape", part, nodes.constant(np.array([0, 0, G, features])))
            nodes.add("Transpose", by_head, perm=[0, 2, 1, 3], output=name)
    window = node.attributes.get("local_window_size", -1)
    if window == 0 or window < -1:
        raise Unsupported(f"attribute local_window_size is {window}, expected 1 or more, or -1")
    return _attend(
        nodes,
        proto,
        node,
        parts,
        _mask(nodes, node, 5, _UNSEEN, last=1),
        10,
        kv_num_heads=G,
        is_causal=node.attributes.get("causal", 1),
        left_window_size=window - 1 if window > 0 else -1,  # the position itself is one of them
        softcap=node.attributes.get("softcap", 0.0),
    )


def _without_caches(
    proto: onnx.NodeProto, node: Node, inputs: Sequence[int], outputs: Sequence[int] = (1, 2, 3)
) -> None:
    """Refuse a node that reads keys and values of earlier positions, or gives its own to later ones."""
    for place in inputs:
        if node.has(place):
            raise Unsupported(
                f"{node.called(place)} is of keys and values of earlier positions, expected whole sequences; "
                "export the model without a cache (use_cache=False)"
            )
    without_outputs(proto, outputs, "keys and values, or weights,")


def _split(nodes: Nodes, name: str, widths: Sequence[int]) -> list[str]:
    """Add a node that splits the last axis; returns the names of the parts."""
    outputs = [f"{nodes.name}.part{place}.y" for place in range(len(widths))]
    return list(nodes.add_many("Split", [name, nodes.constant(np.array(widths))], outputs, axis=-1))


def _mask(nodes: Nodes, node: Node, position: int, low: float, last: int = 0) -> list[str]:
    """What a mask adds to scores, (samples, 1, 1 or queries, keys): 0 or a low number; [] without a mask.

    Args:
        nodes: to which it is added.
        node: which is replaced.
        position: of the input: for each sample, or each query of it, numbers above 0 where a key is seen; or
            the number of keys of each sample.
        low: the number.
        last: 1 where the number of the last key is in place of that of keys.
    """
    value = node.input(position)
    if value is None:
        return []
    of_keys = 1 if node.operator.endswith("MultiHeadAttention") else 0
    samples, keys = shape_of(node, 0)[0], shape_of(node, of_keys)[-2]
    name, shape = node.input_names[position], shape_of(node, position)
    if not isinstance(value, (Signal, Moved)):
        row = one_row(node, position)
        samples, name, shape = 1, nodes.constant(row), row.shape
    if shape == (samples,) or last and shape == (samples, 1):
        lengths = nodes.add("Reshape", nodes.add("Cast", name, to=1), nodes.constant(np.array([0, 1])))
        lengths = nodes.add("Expand", lengths, nodes.constant(np.array([1, keys])))
        numbers = np.arange(keys, dtype=np.float32)[None] - last
        seen, sizes = nodes.add("Greater", lengths, nodes.constant(numbers)), [0, 1, 1, keys]
    elif len(shape) in (2, 3) and shape[-1] == keys:
        seen = nodes.add("Greater", nodes.add("Cast", name, to=1), nodes.constant(np.float32(0)))
        sizes = [0, 1, 1, keys] if len(shape) == 2 else [0, 1, *shape[1:]]
    else:
        raise Unsupported(
            f"{node.called(position)} has shape {shape}, expected a mask (samples, {keys}), one for each "
            "query, (samples, queries, keys), or a number of keys for each sample, (samples)"
        )
    one, factor = (nodes.constant(np.float32(number)) for number in (1, -low))
    added = nodes.add("Mul", nodes.add("Sub", nodes.add("Cast", seen, to=1), one), factor)
    return [nodes.add("Reshape", added, nodes.constant(np.array(sizes)))]


def _attend(
    nodes: Nodes,
    proto: onnx.NodeProto,
    node: Node,
    parts: Sequence[str],
    masks: Sequence[str],
    bias: int,
    **attributes: Any,
) -> Nodes:
    """Add the attention of queries, keys and values.

    Args:
        nodes: to which it is added.
        proto, node: which it replaces.
        parts: queries, keys and values.
        masks: see ``_mask``.
        bias: the input that is added to scores as well.
        attributes: of ONNX's operator.
    """
    heads = node.attributes["num_heads"]
    attributes = {"kv_num_heads": heads, "is_causal": is_on(node, "unidirectional")} | attributes
    if node.attributes.get("scale", 0.0):
        attributes["scale"] = node.attributes["scale"]
    if node.input(bias) is not None:
        name = node.input_names[bias]
        # Constants are added to no less than what they are broadcast to.
        sizes = nodes.constant(np.array([1, *shape_of(node, bias)[1:]]))
        masks = [nodes.add("Add", nodes.add("Expand", mask, sizes), name) for mask in masks] or [name]
    nodes.add("Attention", *parts, *masks, output=proto.output[0], q_num_heads=heads, **attributes)
    return nodes


def _filter(node: Node) -> float:
    return node.attributes.get("mask_filter_value", _FILTER)


REWRITERS: dict[str, Callable[[onnx.NodeProto, Node], Nodes]] = {
    "com.microsoft.Attention": attend_packed,
    "com.microsoft.MultiHeadAttention": attend,
    "com.microsoft.GroupQueryAttention": attend_grouped,
}
