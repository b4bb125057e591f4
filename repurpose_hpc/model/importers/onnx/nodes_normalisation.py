"""ONNX operators that need sums over other neurons: normalisations, and Softmax at the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.nodes_elementwise import affine
from repurpose_hpc.model.importers.onnx.nodes_pooling import pool_whole
from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported


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
    distance = np.arange(n) - np.arange(n)[:, None]
    is_near = (distance >= -((size - 1) // 2)) & (distance <= size // 2)
    squares = builder.elementwise(tensors.name(f"{node.name}.squares"), source, Activation("square"))
    sums = tensors.sums(f"{node.name}.sums", squares, (is_near * (alpha / size)).astype(np.float32), bias)
    powers = builder.elementwise(tensors.name(f"{node.name}.powers"), sums, Activation("power", -beta))
    target = builder.combine(tensors.name(node.name), source, powers, "multiply")
    return tensors.signal(target, signal.shape, str(node))


def layer_normalisation(node: Node) -> Signal:
    """LayerNormalization over the neurons, or over neurons and positions."""
    signal = node.tensors.compact(node.signal())
    axis = node.attributes.get("axis", -1) % len(signal.shape)
    if node.outputs > 1:
        raise Unsupported(f"it has {node.outputs} outputs, expected one")
    neurons = node.tensors.axis_of_neurons(signal)
    sizes = signal.shape[1:]
    over_all = math.prod(sizes[: axis - 1]) == 1
    if not over_all and (neurons != axis - 1 or axis != len(sizes)):
        raise Unsupported(f"attribute axis is {axis}, expected 1 or the axis of the neurons (channels)")
    normalised = _normalise(node, signal, groups=1, over_positions=over_all)
    scale = node.weights(1)
    return affine(node, normalised, scale, scale * 0 if node.input(2) is None else node.weights(2))


def instance_normalisation(node: Node) -> Signal:
    """Every map by itself; or groups of maps, where a Reshape has put several on one axis."""
    signal = node.tensors.compact(node.signal())
    groups = signal.shape[1]
    if signal.index is not None or node.tensors.builder.neurons(signal.expression.tensor) % groups:
        raise Unsupported(f"its features of shape {signal.shape[1:]} are no groups of neurons (channels)")
    normalised = _normalise(node, signal, groups, over_positions=True)
    per_group = (groups, *(1,) * (len(signal.shape) - 2))
    return affine(node, normalised, node.weights(1).reshape(per_group), node.weights(2).reshape(per_group))


def group_normalisation(node: Node) -> Signal:
    """Groups of maps."""
    signal = node.tensors.compact(node.signal())
    if signal.index is not None:
        raise Unsupported(f"its channels are not on the first axis of shape {signal.shape[1:]}")
    groups, channels = node.attributes["num_groups"], signal.shape[1]
    normalised = _normalise(node, signal, groups, over_positions=True)
    scale, shift = (node.weights(position) for position in (1, 2))
    if node.opset < 21:  # one for each group
        scale, shift = (np.repeat(array, channels // groups) for array in (scale, shift))
    per_channel = (channels, *(1,) * (len(signal.shape) - 2))
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
    axis = node.attributes.get("axis", -1 if node.opset >= 13 else 1) % len(signal.shape)
    # Before opset 13 all axes from the one named on counted.
    features = signal.shape[axis] if node.opset >= 13 else math.prod(signal.shape[axis:])
    if axis == 0 or features != signal.features:
        raise Unsupported(
            f"attribute axis is {axis}, which is not the whole feature axis of shape {signal.shape[1:]}"
        )
    return replace(signal, head="softmax" if node.operator == "Softmax" else "log_softmax", origin=str(node))


OPERATORS: dict[str, Callable[[Node], Signal]] = {
    "LRN": local_response,
    "LayerNormalization": layer_normalisation,
    "InstanceNormalization": instance_normalisation,
    "GroupNormalization": group_normalisation,
    **dict.fromkeys(("Softmax", "LogSoftmax"), softmax),
}
