"""ONNX operators that join values, or add positions and neurons: Concat, Pad."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import reduce

import numpy as np

from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.nodes_elementwise import combine
from repurpose_hpc.model.importers.onnx.nodes_selection import filled
from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported, Value


def concat(node: Node) -> Signal:
    """Values and constants one after the other along an axis; what has no entries is left out."""
    signals = [node.signal(place) for place, value in enumerate(node.inputs) if isinstance(value, Signal)]
    axis = node.axis(node.attributes["axis"], signals[0])
    values = [
        value if isinstance(value, Signal) else _row(node, place, signals[0].shape[0])
        for place, value in enumerate(node.inputs)
    ]
    _check_alike(signals[0], values, axis)
    values = [value for value in values if value.shape[1 + axis]]
    joined = _joined(node, signals, axis)
    if len(signals) == len(values):
        return joined
    sizes = list(joined.shape[1:])
    order, constants, first = [], [], 0
    for value in values:
        sizes[axis] = value.shape[1 + axis]
        if isinstance(value, Signal):
            order.append(np.arange(first, first + sizes[axis]))
            constants.append(np.zeros(sizes, np.float32))
            first += sizes[axis]
        else:
            order.append(np.full(sizes[axis], -1))
            constants.append(value[0])
    along = np.concatenate(order)
    places = np.arange(joined.features).reshape(joined.shape[1:]).take(along, axis)
    beside = (-1, *(1,) * (len(sizes) - 1 - axis))
    index = np.where(along.reshape(beside) < 0, -1, places)
    return filled(node, joined, index, np.concatenate(constants, axis))


def _row(node: Node, place: int, samples: int) -> np.ndarray:
    """A constant as the row that every sample has, (1, ...)."""
    constant = node.constant(place)
    if isinstance(node.input(place), np.ndarray):
        if constant.shape[:1] != (samples,) or (constant != constant[:1]).any():
            raise Unsupported(f"{node.called(place)} of shape {constant.shape} is no row for each sample")
        constant = constant[:1]
    return constant


def _check_alike(signal: Signal, values: list[Signal | np.ndarray], axis: int) -> None:
    """Refuse values that differ along another axis."""
    expected = np.delete(signal.shape[1:], axis).tolist()
    for value in values:
        sizes = value.shape[1:]
        if len(sizes) <= axis or np.delete(sizes, axis).tolist() != expected:
            raise Unsupported(f"it joins shapes {signal.shape[1:]} and {sizes} along axis {axis + 1}")


def _joined(node: Node, values: list[Signal], axis: int) -> Signal:
    """Neurons, or positions of the same neurons, of several values one after the other."""
    if len(values) == 1:
        return values[0]
    tensors, builder = node.tensors, node.tensors.builder
    settled = [tensors.settled(value) for value in values]
    beside = _beside(node, settled, axis)
    if beside is not None:
        return beside
    axes = tensors.axes_of_neurons(settled, [axis])
    if axes is not None:
        return _joined_on_axes(node, settled, axis, axes)
    sources = [value.expression.tensor for value in settled]
    flattened = axis == 0 and all(value.index is None for value in settled)
    if not (flattened and len({builder.positions(source) for source in sources}) == 1):
        sources = [tensors.map(value, axis) for value in values]
    sizes = list(values[0].shape)
    sizes[1 + axis] = sum(value.shape[1 + axis] for value in values)
    count = sum(map(builder.neurons, sources))
    target = builder.select(tensors.name(node.name), tuple(sources), np.arange(count))
    return tensors.signal(target, tuple(sizes), str(node), axis)


def _joined_on_axes(node: Node, values: list[Signal], axis: int, axes: tuple[int, ...]) -> Signal:
    """Neurons on several axes, ``axis`` among them, along which values come one after the other."""
    tensors = node.tensors
    sources, numbers, first = [], [], 0
    for value in values:
        sources.append(tensors.map_of_axes(value, axes))
        sizes = [value.shape[1 + each] for each in axes]
        numbers.append(first + np.arange(math.prod(sizes)).reshape(sizes))
        first += math.prod(sizes)
    index = np.concatenate(numbers, axes.index(axis)).ravel()
    target = tensors.builder.select(tensors.name(node.name), tuple(sources), index)
    shape = list(values[0].shape)
    shape[1 + axis] = sum(value.shape[1 + axis] for value in values)
    return tensors.signal_on_axes(target, tuple(shape), str(node), axes)


def _beside(node: Node, values: list[Signal], axis: int) -> Signal | None:
    """Positions of the same neurons one after the other; None unless another axis is that of neurons."""
    tensors, axes = node.tensors, range(len(values[0].shape) - 1)
    if all(tensors.has_neurons_on(value, axis) for value in values):
        return None
    if len({value.expression.tensor for value in values}) == 1:
        return values[0].placed(np.concatenate([value.places for value in values], axis))
    of_neurons = [each for each in axes if all(tensors.has_neurons_on(value, each) for value in values)]
    if not of_neurons:
        return None
    shape = list(values[0].shape)
    shape[1 + axis] = sum(value.shape[1 + axis] for value in values)
    parts, first = [], 0
    for value in values:
        width = (first, shape[1 + axis] - first - value.shape[1 + axis])
        widths = [(0, 0)] * len(shape)
        widths[1 + axis] = width
        parts.append(_with_positions(node, value, of_neurons[0], widths, 0.0))
        first += value.shape[1 + axis]
    return reduce(lambda left, right: combine(node, left, right, "add"), parts)


def pad(node: Node) -> Signal:
    """Further positions around maps, or fewer; further neurons, which are constants."""
    signal = node.signal()
    mode, widths = node.text("mode", "constant"), _widths(node, signal)
    cut = tuple(
        slice(max(0, -front), size - max(0, -back))
        for (front, back), size in zip(widths, signal.shape[1:], strict=True)
    )
    added = [(max(0, front), max(0, back)) for front, back in widths]
    if any(map(any, np.minimum(widths, 0))):
        signal = replace(signal.placed(signal.places[cut]), origin=str(node))
    if not any(map(any, added)):
        return signal
    if mode == "constant":
        return _pad_with(node, signal, added, node.number(2, node.attributes.get("value", 0.0)))
    if mode not in ("edge", "reflect", "wrap"):
        raise Unsupported(f"attribute mode is {mode!r}, expected 'constant', 'edge', 'reflect' or 'wrap'")
    if not signal.features or (
        mode == "reflect"
        and any(max(each) >= size for each, size in zip(added, signal.shape[1:], strict=True))
    ):
        raise Unsupported(f"its pads are {added} around features of shape {signal.shape[1:]}")
    places = np.pad(signal.places, added, mode)  # type: ignore[call-overload]  # one of three literals
    return replace(signal.placed(places), origin=str(node))


def _widths(node: Node, signal: Signal) -> list[tuple[int, int]]:
    """What is added in front of and behind each axis, the samples not counted; below 0: taken away."""
    rank, pads = len(signal.shape), node.required_integers(1, "pads")
    axes = node.integers(3, "axes")
    named = list(range(rank)) if axes is None else axes
    if len(pads) != 2 * len(named) or any(not -rank <= axis < rank for axis in named):
        raise Unsupported(f"its pads are {pads} for the axes {named} of {rank}")
    widths = [(0, 0)] * rank
    for place, axis in enumerate(named):
        widths[axis] = (pads[place], pads[place + len(named)])
    if any(widths[0]):
        raise Unsupported(f"it pads the axis of the samples by {widths[0]}")
    if any(
        size + min(front, 0) + min(back, 0) < 0
        for (front, back), size in zip(widths, signal.shape, strict=True)
    ):
        raise Unsupported(f"its pads are {pads}, which take more away than shape {signal.shape[1:]} has")
    return widths[1:]


def _pad_with(node: Node, signal: Signal, widths: list[tuple[int, int]], value: float) -> Signal:
    axis = node.tensors.axis_of_neurons(signal)
    if not any(widths[axis]):
        return _with_positions(node, signal, axis, [(0, 0), *widths], value)
    index = np.pad(np.arange(signal.features).reshape(signal.shape[1:]), widths, constant_values=-1)
    return filled(node, signal, index, np.full(index.shape, value, np.float32))


def _with_positions(
    node: Node, signal: Signal, axis: int, widths: list[tuple[int, int]], value: float
) -> Signal:
    """Further positions of one value; ``widths``: of all axes, none of them along that of the neurons."""
    tensors = node.tensors
    tensor, pads = tensors.map(signal, axis), [*widths[1 : 1 + axis], *widths[2 + axis :]]
    sizes = np.delete(signal.shape[1:], axis)
    index = np.pad(np.arange(sizes.prod()).reshape(sizes), pads, constant_values=-1)
    target = tensors.builder.rearrange(tensors.name(node.name), tensor, index.ravel(), index.shape, value)
    shape = tuple(size + sum(width) for size, width in zip(signal.shape, widths, strict=True))
    return tensors.signal(target, shape, str(node), axis)


OPERATORS: dict[str, Callable[[Node], Value]] = {"Concat": concat, "Pad": pad}
