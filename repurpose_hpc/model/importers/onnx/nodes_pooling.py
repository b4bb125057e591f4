"""ONNX operators that summarise windows and maps."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.signal import Signal
from repurpose_hpc.model.importers.onnx.windows import on_one_axis, pool_window
from repurpose_hpc.model.operations import Pool, Window, whole_map


def pool(node: Node) -> Signal:
    """The largest or the mean value of every window."""
    signal, kernel = node.signal(), tuple(node.attributes["kernel_shape"])
    node.require("storage_order", 0)
    kind = "max" if node.operator == "MaxPool" else "average"
    window, extent = pool_window(node, signal.shape[2:], kernel)
    count_padding = kind == "average" and bool(node.attributes.get("count_include_pad", 0))
    tensor, make = node.tensors.map(signal), _pool if len(kernel) <= 2 else _pool_on_one_axis
    target = make(node, tensor, kind, window, extent if count_padding else ())
    return node.tensors.signal(target, (*signal.shape[:2], *window.out), str(node))


def _pool(node: Node, tensor: str, kind: str, window: Window, extent: tuple[int, ...]) -> str:
    """A pooling; ``extent``: where padding counts, as far as it reaches, else empty."""
    name = node.tensors.name(node.name)
    return node.tensors.builder.pool(name, tensor, kind, window, bool(extent), extent)


def _pool_on_one_axis(node: Node, tensor: str, kind: str, window: Window, extent: tuple[int, ...]) -> str:
    """The same over more axes than kernels know."""
    builder, name = node.tensors.builder, node.tensors.name
    counts = Pool("", "", "", kind, window, bool(extent), extent).counts()
    fill = float(np.finfo(np.float32).min) if kind == "max" else 0.0
    copied, flat = on_one_axis(node, tensor, window, fill)
    target = builder.pool(name(node.name), copied, kind, flat)
    if kind == "max" or (counts == window.taps).all():
        return target
    scale = np.repeat((window.taps / counts)[None].astype(np.float32), builder.neurons(tensor), axis=0)
    return builder.affine(name(f"{node.name}.counted"), target, scale, scale * 0)


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
    flat = positions if len(positions) <= 2 else (math.prod(positions),)
    return node.tensors.builder.pool(node.tensors.name(node.name), tensor, kind, whole_map(flat))


OPERATORS: dict[str, Callable[[Node], Signal]] = {
    **dict.fromkeys(("MaxPool", "AveragePool"), pool),
    **dict.fromkeys(("GlobalMaxPool", "GlobalAveragePool"), global_pool),
}
