"""ONNX operators that summarise: pooling, means and sums over axes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported
from repurpose_hpc.model.importers.onnx.windows import pool_window
from repurpose_hpc.model.operations import Window, whole_map


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


def reduction(node: Node) -> Signal:
    """ReduceMean, ReduceSum or ReduceMax over neurons, positions or both."""
    signal = node.signal()
    rank = len(signal.shape)
    named_axes = node.integers(1, "axes")
    if not named_axes and node.attributes.get("noop_with_empty_axes", 0):
        return signal
    axes = sorted(axis % rank for axis in named_axes or range(rank))
    if axes[0] == 0:
        raise Unsupported("its axes include that of the samples")
    axis, map_axes = node.tensors.axis_of_neurons(signal), [dimension - 1 for dimension in axes]
    tensor = _over_positions(node, signal, axis, map_axes)
    if axis in map_axes:
        tensor = _over_neurons(node, tensor)
    if node.operator == "ReduceSum":
        tensor = _times(node, tensor, math.prod(signal.shape[dimension] for dimension in axes))
    sizes = tuple(1 if dimension in axes else size for dimension, size in enumerate(signal.shape))
    result = node.tensors.signal(tensor, sizes, str(node), axis)
    if node.attributes.get("keepdims", 1):
        return result
    return result.reshaped(
        tuple(size for dimension, size in enumerate(signal.shape) if dimension not in axes)
    )


def _over_positions(node: Node, signal: Signal, axis: int, axes: list[int]) -> str:
    """Every map of a signal with its neurons on ``axis``, one value along each of ``axes``."""
    tensor = node.tensors.map(signal, axis)
    dimensions = [dimension for dimension in range(len(signal.shape) - 1) if dimension != axis]
    sizes = tuple(signal.shape[1 + dimension] for dimension in dimensions)
    kernel = tuple(
        size if dimension in axes else 1 for dimension, size in zip(dimensions, sizes, strict=True)
    )
    if math.prod(kernel) == 1:
        return tensor
    ones, zeros = (1,) * len(sizes), (0,) * len(sizes)
    out = tuple(size // entries for size, entries in zip(sizes, kernel, strict=True))
    kind = "max" if node.operator == "ReduceMax" else "average"
    window = Window(sizes, kernel, ones, ones, zeros, out)
    return node.tensors.builder.pool(node.tensors.name(node.name), tensor, kind, window)


def _over_neurons(node: Node, tensor: str) -> str:
    neurons = node.tensors.builder.neurons(tensor)
    if node.operator == "ReduceMax":
        raise Unsupported("its axes include that of the neurons (channels)")
    return node.tensors.sums(node.name, tensor, np.full((1, neurons), 1 / neurons))


def _times(node: Node, tensor: str, count: int) -> str:
    ones = np.ones((node.tensors.builder.neurons(tensor), 1))
    return node.tensors.builder.affine(
        node.tensors.name(f"{node.name}.count"), tensor, ones * count, ones * 0
    )


OPERATORS: dict[str, Callable[[Node], Signal]] = {
    **dict.fromkeys(("MaxPool", "AveragePool"), pool),
    **dict.fromkeys(("GlobalMaxPool", "GlobalAveragePool"), global_pool),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax"), reduction),
}
