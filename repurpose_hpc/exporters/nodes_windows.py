"""Operations with windows as nodes: layers, convolutions, poolings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from repurpose_hpc.errors import LacksMemory
from repurpose_hpc.exporters.graph import Graph, Value
from repurpose_hpc.exporters.registry import exports
from repurpose_hpc.model.operations import Depthwise, Mixing, Pool, Shape, Window
from repurpose_hpc.model.weights import dense, linked


@exports(Mixing)
def _mixing(op: Mixing, graph: Graph, sources: Sequence[Value], target: Shape) -> Value:
    (x,), W, window = sources, _all_weights(op), op.window
    if _copies(op, W):
        return x
    if window is None:
        return Value(_gemm(graph, x.name, W, op.bias), Shape(len(W), ()))
    if window.is_whole_map:
        return _whole_map(graph, graph.shaped(x, window.positions), W, op.bias, op.taps)
    if window.is_pointwise and (x.neurons_last or (graph.sequences and len(window.positions) == 1)):
        return _by_position(graph, graph.shaped(graph.laid(x, True), window.positions), W, op.bias)
    group = _groups(linked(W, op.taps))
    kernels = _of_groups(W.reshape(len(W), -1, *window.kernel), group)
    return _convolution(graph, x, window, kernels, op.bias, group)


def _all_weights(op: Mixing) -> np.ndarray:
    """The weights in an array: runtimes compute with zeros, too.

    Raises:
        LacksMemory: there is not enough for it.
    """
    try:
        return dense(op.weights)
    except MemoryError:
        m, n = op.weights.shape
        raise LacksMemory(
            f"{op.name}: expected memory for all of its {m} x {n} weights, zeros among them, found too "
            "little; export on a machine with more"
        ) from None


def _copies(op: Mixing, W: np.ndarray) -> bool:
    """Whether a mixing is the identity: an input whose neurons got owners."""
    at_once = op.window is None or op.window.is_pointwise
    return at_once and W.shape[0] == W.shape[1] and not op.bias.any() and np.array_equal(W, np.eye(len(W)))


def _groups(links: np.ndarray) -> int:
    """The most groups of neurons, one after the other, between which there are no links, bool (m, n)."""
    m, n = links.shape
    for count in range(math.gcd(m, n), 1, -1):
        if m % count == n % count == 0:
            blocks = links.reshape(count, m // count, count, n // count).any(axis=(1, 3))
            if not (blocks & ~np.eye(count, dtype=bool)).any():
                return count
    return 1


def _of_groups(kernels: np.ndarray, count: int) -> np.ndarray:
    """The kernels within groups, (m, n / groups, *kernel), of all, (m, n, *kernel)."""
    m, n, *size = kernels.shape
    blocks = kernels.reshape(count, m // count, count, n // count, *size)
    each = np.arange(count)
    return blocks[each, :, each].reshape(m, n // count, *size)


def _gemm(graph: Graph, x: str, W: np.ndarray, bias: np.ndarray) -> str:
    return graph.add("Gemm", x, graph.real("weight", W), *_bias(graph, bias), transB=1)


def _bias(graph: Graph, bias: np.ndarray) -> list[str]:
    return [graph.real("bias", bias)] if bias.any() else []


def _whole_map(graph: Graph, x: Value, W: np.ndarray, bias: np.ndarray, taps: int) -> Value:
    """A layer on all values of all maps, flattened as they lie in the graph."""
    if x.neurons_last:
        W = W.reshape(len(W), -1, taps).swapaxes(1, 2).reshape(W.shape)
    flat = graph.add("Flatten", x.name, axis=1)
    return Value(_gemm(graph, flat, W, bias), Shape(len(W), ()))


def _by_position(graph: Graph, x: Value, W: np.ndarray, bias: np.ndarray) -> Value:
    """The same layer at every position."""
    y = graph.add("MatMul", x.name, graph.real("weight", W.T))
    for name in _bias(graph, bias):
        y = graph.add("Add", y, name)
    return x.of(len(W), y)


@exports(Depthwise)
def _depthwise(op: Depthwise, graph: Graph, sources: Sequence[Value], target: Shape) -> Value:
    kernels = op.weights.reshape(len(op.weights), 1, *op.window.kernel)
    return _convolution(graph, sources[0], op.window, kernels, op.bias, group=len(kernels))


def _convolution(
    graph: Graph, x: Value, window: Window, W: np.ndarray, bias: np.ndarray, group: int = 1
) -> Value:
    x, window = _fitted(graph, x, window)
    constants = graph.real("weight", W), *_bias(graph, bias)
    attributes = _geometry(window) | ({"group": group} if group > 1 else {})
    return Value(graph.add("Conv", x.name, *constants, **attributes), Shape(len(W), window.out))


def _geometry(window: Window) -> dict[str, list[int]]:
    """Attributes that say what a window is, but for those that say what ONNX assumes anyway."""
    given = {"strides": [*window.strides], "dilations": [*window.dilations], "pads": _pads(window)}
    assumed = {"strides": 1, "dilations": 1, "pads": 0}
    told = {name: entries for name, entries in given.items() if {*entries} != {assumed[name]}}
    return {"kernel_shape": [*window.kernel]} | told


def _pads(window: Window) -> list[int]:
    """Padding before every axis, then behind every axis."""
    return [*window.pads, *(max(0, places) for places in _behind(window))]


def _behind(window: Window) -> list[int]:
    """How far the last window reaches beyond the map along each axis; negative: places that none sees."""
    axes = zip(
        *(window.positions, window.kernel, window.strides, window.dilations, window.pads, window.out),
        strict=True,
    )
    return [
        (out - 1) * stride + (kernel - 1) * dilation + 1 - pad - size
        for size, kernel, stride, dilation, pad, out in axes
    ]


def _fitted(graph: Graph, x: Value, window: Window) -> tuple[Value, Window]:
    """The channels of a window, cut off where there is place for more windows, which ONNX would make."""
    x = graph.shaped(graph.laid(x, False), window.positions)
    ends = zip(window.positions, window.strides, _behind(window), strict=True)
    positions = tuple(size + behind if -behind >= stride else size for size, stride, behind in ends)
    if positions == window.positions:
        return x, window
    axes = range(2, 2 + len(positions))
    bounds = (graph.integers(each) for each in ([0] * len(positions), positions, axes))
    cut = Value(graph.add("Slice", x.name, *bounds), Shape(x.shape.neurons, positions))
    return cut, replace(window, positions=positions)


@exports(Pool)
def _pool(op: Pool, graph: Graph, sources: Sequence[Value], target: Shape) -> Value:
    x, window = _fitted(graph, sources[0], op.window)
    shape = Shape(target.neurons, window.out)
    operator = {"max": "MaxPool", "average": "AveragePool"}[op.kind]
    if window.is_whole_map:
        return Value(graph.add(f"Global{operator}", x.name), shape)
    # Runtimes refuse windows that may lie in the padding as a whole.
    is_near = all(pad < kernel for pad, kernel in zip(_pads(window), window.kernel * 2, strict=True))
    if op.kind == "average" and not (is_near and _counts_alike(op)):
        return _average(op, graph, sources[0], shape)
    if not is_near:
        x, window = _padded(graph, x, window)
    counting = {"count_include_pad": 1} if op.count_padding else {}
    return Value(graph.add(operator, x.name, **_geometry(window), **counting), shape)


def _counts_alike(op: Pool) -> bool:
    """Whether an average counts all of the padding or nothing of it, and has no holes (before opset 19)."""
    if max(op.window.dilations) > 1:
        return False
    return not op.count_padding or bool((op.counts() == op.window.taps).all())


def _padded(graph: Graph, x: Value, window: Window) -> tuple[Value, Window]:
    """Channels with -inf around them, and their window."""
    pads = _pads(window)
    axes = len(window.positions)
    positions = tuple(map(sum, zip(x.shape.positions, pads[:axes], pads[axes:], strict=True)))
    widths = graph.integers([0, 0, *pads[:axes], 0, 0, *pads[axes:]])
    name = graph.add("Pad", x.name, widths, graph.number(-math.inf))
    shape = Shape(x.shape.neurons, positions)
    return Value(name, shape), replace(window, positions=positions, pads=(0,) * axes)


def _average(op: Pool, graph: Graph, x: Value, shape: Shape) -> Value:
    """Sums over windows, divided by what counts in each."""
    n = x.shape.neurons
    total = _convolution(graph, x, op.window, np.ones((n, 1, *op.window.kernel)), np.zeros(n), group=n)
    shares = graph.by_neuron("share", 1 / op.counts().reshape(1, -1), total)
    return Value(graph.add("Mul", total.name, shares), shape)
