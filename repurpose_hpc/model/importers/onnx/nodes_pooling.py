"""ONNX operators that summarise windows and maps."""

from __future__ import annotations

from collections.abc import Callable

from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.signal import Signal
from repurpose_hpc.model.importers.onnx.windows import pool_window
from repurpose_hpc.model.operations import whole_map


def pool(node: Node) -> Signal:
    """The largest or the mean value of every window."""
    signal, kernel = node.signal(), tuple(node.attributes["kernel_shape"])
    node.require("storage_order", 0)
    kind = "max" if node.operator == "MaxPool" else "average"
    window, extent = pool_window(node, signal.shape[2:], kernel)
    count_padding = kind == "average" and bool(node.attributes.get("count_include_pad", 0))
    tensor = node.tensors.map(signal)
    target = node.tensors.builder.pool(
        node.tensors.name(node.name), tensor, kind, window, count_padding, extent if count_padding else ()
    )
    return node.tensors.signal(target, (*signal.shape[:2], *window.out), str(node))


def global_pool(node: Node) -> Signal:
    """The largest or the mean value of every map."""
    signal = node.signal()
    kind = "max" if node.operator == "GlobalMaxPool" else "average"
    tensor = pool_whole(node, node.tensors.map(signal), kind)
    ones = (1,) * (len(signal.shape) - 2)
    return node.tensors.signal(tensor, (*signal.shape[:2], *ones), str(node))


def pool_whole(node: Node, tensor: str, kind: str) -> str:
    """One value for each map of ``tensor``; a vector is its own."""
    positions = node.tensors.builder.positions(tensor)
    if not positions:
        return tensor
    return node.tensors.builder.pool(node.tensors.name(node.name), tensor, kind, whole_map(positions))


OPERATORS: dict[str, Callable[[Node], Signal]] = {
    **dict.fromkeys(("MaxPool", "AveragePool"), pool),
    **dict.fromkeys(("GlobalMaxPool", "GlobalAveragePool"), global_pool),
}
