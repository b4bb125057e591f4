"""ONNX operators that need sums over other neurons: normalisations, and Softmax at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.nodes_elementwise import affine, combine
from repurpose_hpc.model.importers.onnx.nodes_pooling import pool_whole
from repurpose_hpc.model.importers.onnx.nodes_reduction import reduce_mean, reduce_sum
from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported, Value


def local_response(node: Node) -> Signal:
    """LRN: every neuron divided by a power of the squares of its neighbours."""
    signal, size = node.signal(), node.attributes["size"]
    tensors, builder = node.tensors, node.tensors.builder
    source = tensors.map(signal)
    alpha, beta, bias = (
        float(node.attributes.get(name, default))
        for name, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    n = builder.neurons(source)
    if size < 1:
        raise Unsupported(f"attribute size is {size}, expected 1 or more")
    distance = np.arange(n) - np.arange(n)[:, None]
    is_near = (distance >= -((size - 1) // 2)) & (distance <= size // 2)
    squares = builder.elementwise(tensors.name(f"{node.name}.squares"), source, Activation("square"))
    sums = tensors.sums(f"{node.name}.sums", squares, (is_near * (alpha / size)).astype(np.float32), bias)
    powers = builder.elementwise(tensors.name(f"{node.name}.powers"), sums, Activation("power", -beta))
    target = builder.combine(tensors.name(node.name), source, powers, "multiply")
    return tensors.signal(target, signal.shape, str(node))


def layer_normalisation(node: Node) -> tuple[Signal, ...]:
    """LayerNormalization over the axes from one on; its further outputs, mean and inverse deviation, too."""
    signal, axes = _with_heads_apart(node)
    scale = node.weights(1)
    shift = scale * 0 if node.input(2) is None else node.weights(2)
    neurons, sizes, named = node.tensors.axis_of_neurons(signal), signal.shape[1:], axes[0] - 1
    over_all = math.prod(sizes[:named]) == 1
    if node.outputs == 1 and (over_all or neurons == named == len(sizes) - 1):
        normalised = _normalise(node, signal, groups=1, over_positions=over_all)
        return (affine(node, normalised, scale, shift).reshaped(node.signal().shape),)
    mean = reduce_mean(node, signal, axes)
    centred = combine(node, signal, mean, "subtract")
    inverse = _inverse_deviation(node, centred, axes)
    target = affine(node, combine(node, centred, inverse, "multiply"), scale, shift)
    whole = node.signal().shape
    kept = (*whole[: len(whole) - len(axes)], *(1 for _ in axes))
    return (target.reshaped(whole), mean.reshaped(kept), inverse.reshaped(kept))[: node.outputs]


def rms_normalisation(node: Node) -> Signal:
    """Values divided by their root mean square over the axes from one on."""
    signal, axes = _with_heads_apart(node)
    scale, inverse = node.weights(1), _inverse_deviation(node, signal, axes)
    target = affine(node, combine(node, signal, inverse, "multiply"), scale, scale * 0)
    return target.reshaped(node.signal().shape)


def _with_heads_apart(node: Node) -> tuple[Signal, list[int]]:
    """The input, tokens and heads on axes of their own, and the axes that are normalised over."""
    tensors, signal = node.tensors, node.tensors.settled(node.signal())
    first = node.axis(node.attributes.get("axis", -1), signal)
    count = len(signal.shape) - 1 - first
    signal = tensors.compact(tensors.apart(signal, range(first)))
    return signal, list(range(len(signal.shape) - count, len(signal.shape)))


def _normalise_axes(node: Node, signal: Signal, axes: list[int]) -> Signal:
    """Mean 0 and variance 1 along ``axes``."""
    centred = combine(node, signal, reduce_mean(node, signal, axes), "subtract")
    return combine(node, centred, _inverse_deviation(node, centred, axes), "multiply")


def _inverse_deviation(node: Node, signal: Signal, axes: list[int]) -> Signal:
    """1 / sqrt(mean of the squares + epsilon) along ``axes``."""
    squares = replace(signal, expression=signal.expression.then(Activation("square"), f"{node.name}.squares"))
    epsilon = np.array(node.attributes.get("epsilon", 1e-5))
    raised = affine(node, reduce_mean(node, squares, axes), np.ones(()), epsilon)
    power = raised.expression.then(Activation("power", -0.5), f"{node.name}.inverse")
    return replace(raised, expression=power)


def lp_normalisation(node: Node) -> Signal:
    """Values divided by the sum of absolute ones, or its Euclidean twin, along an axis; zeros stay zeros."""
    signal = node.tensors.compact(node.signal())
    axes = [node.axis(node.attributes.get("axis", -1), signal) + 1]
    if node.attributes.get("p", 2) == 1:
        magnitudes = signal.expression.then(Activation("abs"), f"{node.name}.abs")
        norm = reduce_sum(node, replace(signal, expression=magnitudes), axes)
    else:
        squares = signal.expression.then(Activation("square"), f"{node.name}.squares")
        total = reduce_sum(node, replace(signal, expression=squares), axes)
        norm = replace(total, expression=total.expression.then(Activation("power", 0.5), f"{node.name}.norm"))
    # No number of float32 is nearer to 0, but those that have lost digits.
    above = Activation("clip", float(np.finfo(np.float32).tiny), math.inf)
    divisor = norm.expression.then(above, f"{node.name}.divisor")
    return combine(node, signal, replace(norm, expression=divisor), "divide")


def instance_normalisation(node: Node) -> Signal:
    """Every map by itself; or groups of maps, where a Reshape has put several on one axis."""
    signal = node.tensors.compact(node.signal())
    groups = signal.shape[1]
    for position in (1, 2):
        node.require_shape(position, (groups,))
    if signal.index is not None or node.tensors.builder.neurons(signal.expression.tensor) % groups:
        normalised = _normalise_axes(node, signal, list(range(2, len(signal.shape))))
    else:
        normalised = _normalise(node, signal, groups, over_positions=True)
    per_group = (groups, *(1,) * (len(signal.shape) - 2))
    return affine(node, normalised, node.weights(1).reshape(per_group), node.weights(2).reshape(per_group))


def group_normalisation(node: Node) -> Signal:
    """Groups of maps."""
    signal = node.tensors.compact(node.signal())
    groups, channels, maps = node.attributes["num_groups"], signal.shape[1], signal.shape[2:]
    if groups < 1 or channels % groups:
        raise Unsupported(f"attribute num_groups is {groups}, which does not divide {channels} channels")
    for position in (1, 2):
        node.require_shape(position, (groups if node.opset < 21 else channels,))
    if signal.index is None:
        normalised = _normalise(node, signal, groups, over_positions=True)
    else:
        grouped = signal.reshaped((signal.shape[0], groups, channels // groups, *maps))
        normalised = _normalise_axes(node, grouped, list(range(2, 3 + len(maps)))).reshaped(signal.shape)
    scale, shift = (node.weights(position) for position in (1, 2))
    if node.opset < 21:  # one for each group
        scale, shift = (np.repeat(array, channels // groups) for array in (scale, shift))
    per_channel = (channels, *(1,) * len(maps))
    return affine(node, normalised, scale.reshape(per_channel), shift.reshape(per_channel))


def _normalise(node: Node, signal: Signal, groups: int, over_positions: bool) -> Signal:
    """Mean 0 and variance 1 within every group of neurons that follow one another."""
    tensors, builder = node.tensors, node.tensors.builder
    epsilon, source = node.attributes.get("epsilon", 1e-5), signal.expression.tensor
    name = tensors.name
    mean = _group_means(node, source, groups, over_positions, "mean")
    centred = builder.combine(name(f"{node.name}.centred"), source, mean, "subtract")
    squares = builder.elementwise(name(f"{node.name}.squares"), centred, Activation("square"))
    variance = _group_means(node, squares, groups, over_positions, "variance")
    ones = np.ones((builder.neurons(source), 1))
    raised = builder.affine(name(f"{node.name}.epsilon"), variance, ones, ones * epsilon)
    inverse = builder.elementwise(name(f"{node.name}.inverse"), raised, Activation("power", -0.5))
    target = builder.combine(name(f"{node.name}.normalised"), centred, inverse, "multiply")
    return replace(signal, expression=tensors.expression(target, signal.expression.size))


def _group_means(node: Node, tensor: str, groups: int, over_positions: bool, word: str) -> str:
    """Means of groups of neurons, for every neuron that of its group."""
    if over_positions:
        tensor = pool_whole(node, tensor, "average")
    neurons = node.tensors.builder.neurons(tensor)
    if groups == neurons:
        return tensor
    members = np.repeat(np.eye(groups), neurons // groups, axis=1)
    sums = node.tensors.sums(f"{node.name}.{word}", tensor, members * (groups / neurons))
    return node.tensors.sums(f"{node.name}.{word}.spread", sums, np.ascontiguousarray(members.T))


def softmax(node: Node) -> Signal:
    """Softmax or LogSoftmax over all features, which only the end of a network may have."""
    signal = node.signal()
    axis = node.axis(node.attributes.get("axis", -1 if node.opset >= 13 else 1), signal) + 1
    # Before opset 13 all axes from the one named on counted.
    features = signal.shape[axis] if node.opset >= 13 else math.prod(signal.shape[axis:])
    if features != signal.features:
        raise Unsupported(
            f"attribute axis is {axis}, which is not the whole feature axis of shape {signal.shape[1:]}"
        )
    return replace(signal, head="softmax" if node.operator == "Softmax" else "log_softmax", origin=str(node))


OPERATORS: dict[str, Callable[[Node], Value | Iterable[Value]]] = {
    "LRN": local_response,
    "LayerNormalization": layer_normalisation,
    "RMSNormalization": rms_normalisation,
    "LpNormalization": lp_normalisation,
    "InstanceNormalization": instance_normalisation,
    "GroupNormalization": group_normalisation,
    **dict.fromkeys(("Softmax", "LogSoftmax"), softmax),
}
