"""ONNX operators that summarise axes: means, sums, norms, products, the largest and the smallest value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import reduce

import numpy as np

from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.importers.onnx.axes import members
from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.nodes_elementwise import affine, combine
from repurpose_hpc.model.importers.onnx.regrouping import LARGEST_WEIGHTS
from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported
from repurpose_hpc.model.operations import Window

# Factors of a product, each of which takes an operation.
_MOST_FACTORS = 64

# What is computed of every value before its sum, and of the sum.
_SUMS: dict[str, tuple[Activation | None, Activation | None]] = {
    "ReduceSum": (None, None),
    "ReduceSumSquare": (Activation("square"), None),
    "ReduceL1": (Activation("abs"), None),
    "ReduceL2": (Activation("square"), Activation("power", 0.5)),
}


def reduction(node: Node) -> Signal:
    """One value along each of the axes named, over neurons, positions or both."""
    signal = node.signal()
    rank = len(signal.shape)
    named_axes = node.integers(1, "axes")
    if not named_axes and node.attributes.get("noop_with_empty_axes", 0):
        return _of_every_value(node, signal)
    axes = node.axes(named_axes or list(range(rank)), rank)
    result = _REDUCTIONS[node.operator](node, signal, axes)
    if node.attributes.get("keepdims", 1):
        return result
    return result.reshaped(
        tuple(size for dimension, size in enumerate(signal.shape) if dimension not in axes)
    )


def _of_every_value(node: Node, signal: Signal) -> Signal:
    """A reduction over no axis."""
    before, after = _SUMS.get(node.operator, (None, None))
    return _applied(node, _applied(node, signal, before), after)


def _sum(node: Node, signal: Signal, axes: list[int]) -> Signal:
    before, after = _SUMS[node.operator]
    return _applied(node, reduce_sum(node, _applied(node, signal, before), axes), after)


def _applied(node: Node, signal: Signal, activation: Activation | None) -> Signal:
    if activation is None:
        return signal
    expression = signal.expression.then(activation, f"{node.name}.{activation.kind}")
    return replace(signal, expression=expression, origin=str(node))


def reduce_sum(node: Node, signal: Signal, axes: list[int]) -> Signal:
    """The sum along ``axes``, the samples being axis 0; they stay, with size 1."""
    mean = reduce_mean(node, signal, axes)
    count = math.prod(signal.shape[axis] for axis in axes)
    tensors, tensor = node.tensors, mean.expression.tensor
    ones = np.ones((tensors.builder.neurons(tensor), 1))
    target = tensors.builder.affine(tensors.name(f"{node.name}.count"), tensor, ones * count, ones * 0)
    return replace(mean, expression=tensors.expression(target, mean.expression.size))


def reduce_mean(node: Node, signal: Signal, axes: list[int]) -> Signal:
    """The mean along ``axes``, likewise."""
    signal = node.tensors.settled(signal)
    joined = node.tensors.axes_of_neurons([signal])
    if joined is not None and {axis - 1 for axis in axes} <= {*joined}:
        return _mean_of_groups(node, signal, axes, joined)
    axis = node.tensors.axis_of_neurons(signal)
    if node.tensors.is_vector(signal) and not node.tensors.has_neurons_on(signal, axis):
        return _mean_of_values(node, signal, axes)
    tensor = _over_positions(node, signal, axis, axes, "average")
    if axis + 1 in axes:
        neurons = node.tensors.builder.neurons(tensor)
        tensor = node.tensors.sums(node.name, tensor, np.full((1, neurons), 1 / neurons))
    return node.tensors.signal(tensor, _with_ones(signal, axes), str(node), axis)


def _mean_of_groups(node: Node, signal: Signal, axes: list[int], neurons: tuple[int, ...]) -> Signal:
    """The mean along axes on which neurons are, ``neurons`` with others: of the features of a head."""
    shape = _with_ones(signal, axes)
    sizes, kept = ([each[1 + axis] for axis in neurons] for each in (signal.shape, shape))
    tensor = node.tensors.map_of_axes(signal, neurons)
    weights = members(sizes, kept) * (math.prod(kept) / math.prod(sizes))
    target = node.tensors.sums(node.name, tensor, weights)
    return node.tensors.signal_on_axes(target, shape, str(node), neurons)


def _mean_of_values(node: Node, signal: Signal, axes: list[int]) -> Signal:
    """The mean where every value is a neuron."""
    shape = _with_ones(signal, axes)
    groups = np.arange(math.prod(shape[1:])).reshape(shape[1:])
    member_of = np.broadcast_to(groups, signal.shape[1:]).ravel()
    if groups.size * signal.features > LARGEST_WEIGHTS:
        raise Unsupported(f"it takes means of {signal.features} neurons, which is too many")
    W = (member_of == np.arange(groups.size)[:, None]) * (groups.size / signal.features)
    target = node.tensors.sums_of_values(node.name, signal, W, np.zeros(groups.size))
    return node.tensors.signal(target, shape, str(node))


def reduce_max(node: Node, signal: Signal, axes: list[int]) -> Signal:
    """The largest value along ``axes``, likewise; they become positions where they are of neurons."""
    axis = node.tensors.axis_of_neurons(signal)
    if axis + 1 in axes:
        kept = [each - 1 for each in range(1, len(signal.shape)) if each not in axes]
        axis = max(kept, key=lambda each: signal.shape[1 + each], default=-1)
    if axis < 0:
        whole = signal.reshaped((signal.shape[0], 1, signal.features))
        tensor = _over_positions(node, whole, 0, [2], "max")
        return node.tensors.signal(tensor, _with_ones(signal, axes), str(node))
    tensor = _over_positions(node, signal, axis, axes, "max")
    return node.tensors.signal(tensor, _with_ones(signal, axes), str(node), axis)


def reduce_min(node: Node, signal: Signal, axes: list[int]) -> Signal:
    """The smallest value: the largest of the negative ones, with its sign."""
    minus, zero = np.float32(-1), np.float32(0)
    return affine(node, reduce_max(node, affine(node, signal, minus, zero), axes), minus, zero)


def _product(node: Node, signal: Signal, axes: list[int]) -> Signal:
    """The product along ``axes``, factor by factor."""
    count = math.prod(signal.shape[axis] for axis in axes)
    if count > _MOST_FACTORS:
        raise Unsupported(f"it multiplies {count} values, expected at most {_MOST_FACTORS}")
    signal = node.tensors.settled(signal)
    moved = np.moveaxis(signal.places, [axis - 1 for axis in axes], range(len(axes)))
    shape = _with_ones(signal, axes)[1:]
    factors = [signal.placed(part.reshape(shape)) for part in moved.reshape(count, -1)]
    return reduce(lambda left, right: combine(node, left, right, "multiply"), factors)


def _with_ones(signal: Signal, axes: list[int]) -> tuple[int, ...]:
    return tuple(1 if dimension in axes else size for dimension, size in enumerate(signal.shape))


def _over_positions(node: Node, signal: Signal, axis: int, axes: list[int], kind: str) -> str:
    """Every map of a signal with its neurons on ``axis``, one value along each of ``axes``."""
    dimensions = [dimension for dimension in range(len(signal.shape) - 1) if dimension != axis]
    sizes = tuple(signal.shape[1 + dimension] for dimension in dimensions)
    kernel = tuple(
        size if 1 + dimension in axes else 1 for dimension, size in zip(dimensions, sizes, strict=True)
    )
    if len(sizes) > 2:
        return _over_last_positions(node, signal, axis, [d for d in dimensions if 1 + d in axes], kind)
    tensor = node.tensors.map(signal, axis)
    if math.prod(kernel) == 1:
        return tensor
    ones, zeros = (1,) * len(sizes), (0,) * len(sizes)
    out = tuple(size // entries for size, entries in zip(sizes, kernel, strict=True))
    window = Window(sizes, kernel, ones, ones, zeros, out)
    return node.tensors.builder.pool(node.tensors.name(node.name), tensor, kind, window)


def _over_last_positions(node: Node, signal: Signal, axis: int, summed: list[int], kind: str) -> str:
    """The same of maps with more axes than windows have: what is summed up is moved behind the rest."""
    kept = [each for each in range(len(signal.shape) - 1) if each not in (axis, *summed)]
    places = node.tensors.settled(signal).places.transpose([axis, *kept, *summed])
    count = math.prod(signal.shape[1 + dimension] for dimension in summed)
    two = node.tensors.settled(signal).placed(places.reshape(signal.shape[1 + axis], -1, count))
    return _over_positions(node, two, 0, [3], kind)


_REDUCTIONS: dict[str, Callable[[Node, Signal, list[int]], Signal]] = {
    **dict.fromkeys(_SUMS, _sum),
    "ReduceMean": reduce_mean,
    "ReduceMax": reduce_max,
    "ReduceMin": reduce_min,
    "ReduceProd": _product,
}
OPERATORS: dict[str, Callable[[Node], Signal]] = {
    **dict.fromkeys(_REDUCTIONS, reduction),
}
