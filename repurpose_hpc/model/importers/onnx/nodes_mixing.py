"""ONNX operators with weights: layers that see a vector, and convolutions."""

from __future__ import annotations

import math

import numpy as np

from repurpose_hpc.model.importers.arrays import ungrouped
from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported
from repurpose_hpc.model.importers.onnx.windows import conv_window, on_one_axis, spatial_attribute, window_of
from repurpose_hpc.model.operations import Window

# Of a sequence whose neurons have one value each, as an unrolled recurrent layer leaves it.
_MOST_STEPS = 64


def gemm(node: Node) -> Signal:
    """alpha x W + beta C."""
    node.require("transA", 0)
    W = node.weights(1)
    if W.ndim != 2 or len(node.signal().shape) != 2:
        raise Unsupported(f"it multiplies {len(node.signal().shape)} axes by {W.ndim}, expected two each")
    W = W if node.attributes.get("transB", 0) else W.T
    C = np.zeros(1, W.dtype) if node.input(2) is None else node.weights(2)
    alpha, beta = (W.dtype.type(node.attributes.get(name, 1.0)) for name in ("alpha", "beta"))
    return dense(node, node.signal(), W if alpha == 1 else alpha * W, beta * C.astype(W.dtype))


def linear(node: Node, signal: Signal, W: np.ndarray) -> Signal:
    """x W over the last axis, W (inputs, outputs)."""
    bias = np.zeros(1, W.dtype)
    if math.prod(signal.shape[1:-1]) == 1:
        return dense(node, signal, W.T, bias)
    _check_width(signal, W.T)
    axis, tensors = len(signal.shape) - 2, node.tensors
    steps = math.prod(signal.shape[1:-1])
    if steps <= _MOST_STEPS and not tensors.has_neurons_on(signal, axis) and tensors.is_vector(signal):
        return _step_by_step(node, signal, W)
    tensor = tensors.map(signal, axis)
    window = node.tensors.pointwise(tensor)
    target = _mixing(node, tensor, W.T, np.broadcast_to(bias, W.shape[1]), window)
    return node.tensors.signal(target, (*signal.shape[:-1], W.shape[1]), str(node), axis)


def _step_by_step(node: Node, signal: Signal, W: np.ndarray) -> Signal:
    """The same layer on every row of a signal whose neurons have one value each: no neuron is moved."""
    signal, builder = node.tensors.settled(signal), node.tensors.builder
    rows = signal.places.reshape(-1, len(W))
    steps = [dense(node, signal.placed(row), W.T, np.zeros(1, W.dtype)).expression.tensor for row in rows]
    count = len(rows) * W.shape[1]
    target = builder.select(node.tensors.name(f"{node.name}.steps"), tuple(steps), np.arange(count))
    return node.tensors.signal(target, (*signal.shape[:-1], W.shape[1]), str(node))


def dense(node: Node, signal: Signal, W: np.ndarray, b: np.ndarray) -> Signal:
    """A mixing of a vector by ``W`` (outputs, inputs) and ``b``, broadcast to (outputs,)."""
    _check_width(signal, W)
    try:
        bias = np.broadcast_to(b, (1, len(W)))[0]
    except ValueError:
        raise Unsupported(f"its bias has shape {b.shape}, expected ({len(W)},)") from None
    if not len(W):
        return signal.placed(np.empty((*signal.shape[1:-1], 0), np.int64))
    tensor, window, W = node.tensors.flat_weights(signal, W)
    target = _mixing(node, tensor, W, bias, window)
    axis = len(signal.shape) - 2
    return node.tensors.signal(target, (*signal.shape[:-1], len(W)), str(node), axis)


def _check_width(signal: Signal, W: np.ndarray) -> None:
    if signal.shape[-1] != W.shape[1]:
        raise Unsupported(
            f"it multiplies features of shape {signal.shape[1:]} by weights of shape {W.T.shape}"
        )


def _mixing(node: Node, tensor: str, W: np.ndarray, b: np.ndarray, window: Window | None) -> str:
    name = node.tensors.name(node.name)
    W, b = np.ascontiguousarray(W), np.ascontiguousarray(b.astype(W.dtype, copy=False))
    return node.tensors.builder.mixing(name, tensor, W, b, window)


def conv(node: Node) -> Signal:
    """A convolution over one or two axes."""
    signal, W = node.signal(), _kernel(node)
    window = conv_window(node, signal.shape[2:], W.shape[2:])
    return _convolve(node, signal, node.tensors.map(signal), W, window)


def _kernel(node: Node) -> np.ndarray:
    """The weights of a convolution.

    Raises:
        Unsupported: they do not fit the maps, the attributes or the bias.
    """
    W, rank = node.weights(1), len(node.signal().shape)
    sizes = tuple(node.attributes.get("kernel_shape", W.shape[2:]))
    if W.ndim != rank or W.ndim < 3 or 0 in W.shape or sizes != W.shape[2:]:
        raise Unsupported(f"its weights have shape {W.shape}, for a kernel of shape {sizes} and {rank} axes")
    groups = node.attributes.get("group", 1)
    if groups < 1 or len(W) % groups:
        raise Unsupported(f"attribute group is {groups} for weights of shape {W.shape}")
    if node.input(2) is not None:
        node.require_shape(2, (len(W) if node.operator == "Conv" else W.shape[1] * groups,))
    return W


def conv_transpose(node: Node) -> Signal:
    """A transposed convolution: zeros between the values, then a convolution by the mirrored kernel."""
    signal, W = node.signal(), _kernel(node)
    sizes, kernel = signal.shape[2:], W.shape[2:]
    axes = range(len(kernel))
    strides, dilations, extra = (
        spatial_attribute(node, name, kernel, default)
        for name, default in (("strides", 1), ("dilations", 1), ("output_padding", 0))
    )
    spans = tuple((kernel[i] - 1) * dilations[i] + 1 for i in axes)
    full_sizes = tuple((sizes[i] - 1) * strides[i] + spans[i] + extra[i] for i in axes)
    out = tuple(node.attributes.get("output_shape", ()))[-len(kernel) :]
    front = _transposed_pads(node, full_sizes, strides, out)
    if not out:
        pads = tuple(node.attributes.get("pads", (0,) * 2 * len(kernel)))
        if len(pads) != 2 * len(kernel) or min(pads) < 0:
            raise Unsupported(f"attribute pads is {pads}, expected {2 * len(kernel)} numbers of 0 or more")
        back = pads[len(kernel) :]
        out = tuple(full_sizes[i] - front[i] - back[i] for i in axes)
        if node.text("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
            out = tuple(min(sizes[i] * strides[i], full_sizes[i]) for i in axes)
    if any(extra[i] >= max(strides[i], dilations[i]) for i in axes):
        raise Unsupported(f"attribute output_padding is {extra}, expected less than the strides {strides}")
    spread = tuple((sizes[i] - 1) * strides[i] + 1 for i in axes)
    pads = tuple(spans[i] - 1 - front[i] for i in axes)
    if min(pads) < 0:
        raise Unsupported(f"attribute pads is {front}, expected less than the size of the kernel")
    tensor = node.tensors.map(signal)
    if spread != sizes:
        index = np.full(spread, -1, np.int64)
        index[tuple(slice(None, None, stride) for stride in strides)] = np.arange(math.prod(sizes)).reshape(
            sizes
        )
        name = node.tensors.name(f"{node.name}.spread")
        tensor = node.tensors.builder.rearrange(name, tensor, index.ravel(), spread)
    window = window_of(spread, kernel, (1,) * len(kernel), dilations, pads, out)
    return _convolve(node, signal, tensor, _transposed_weights(W, node.attributes.get("group", 1)), window)


def _transposed_pads(
    node: Node, full_sizes: tuple[int, ...], strides: tuple[int, ...], out: tuple[int, ...]
) -> tuple[int, ...]:
    """Lengths cut off at the front of every axis of a result of ``full_sizes``."""
    auto_pad = node.text("auto_pad", "NOTSET")
    if auto_pad == "VALID":
        return (0,) * len(full_sizes)
    if auto_pad == "NOTSET" and not out:
        return tuple(node.attributes.get("pads", [0] * 2 * len(full_sizes))[: len(full_sizes)])
    sizes = node.signal().shape[2:]
    out = out or tuple(size * stride for size, stride in zip(sizes, strides, strict=True))
    cut = [max(0, full_size - size) for full_size, size in zip(full_sizes, out, strict=True)]
    return tuple(total // 2 if auto_pad == "SAME_UPPER" else total - total // 2 for total in cut)


def _transposed_weights(W: np.ndarray, groups: int) -> np.ndarray:
    """(C, M / groups, kernel) as the (M, C / groups, kernel) of a convolution by the mirrored kernel."""
    mirrored = np.flip(W, tuple(range(2, W.ndim)))
    blocks = np.split(mirrored, groups)
    return np.concatenate([block.swapaxes(0, 1) for block in blocks])


def _convolve(node: Node, signal: Signal, tensor: str, W: np.ndarray, window: Window) -> Signal:
    """A convolution of ``tensor`` by W (outputs, inputs / groups, *kernel)."""
    builder, outputs = node.tensors.builder, len(W)
    groups, channels = node.attributes.get("group", 1), signal.shape[1]
    if W.shape[1] * groups != channels or outputs % groups:
        raise Unsupported(f"its weights of shape {W.shape} in {groups} groups do not fit {channels} channels")
    bias = (
        np.zeros(outputs, W.dtype) if node.input(2) is None else node.weights(2).astype(W.dtype, copy=False)
    )
    W = W.reshape(outputs, W.shape[1], -1)
    shape = (signal.shape[0], outputs, *window.out)
    tensor, window = on_one_axis(node, tensor, window)
    if groups == channels > 1:
        if outputs > channels:
            repeated = np.arange(outputs) // (outputs // channels)
            tensor = builder.select(node.tensors.name(f"{node.name}.repeat"), (tensor,), repeated)
        weights = np.ascontiguousarray(W[:, 0])
        target = builder.depthwise(node.tensors.name(node.name), tensor, weights, bias, window)
    else:
        W, remaining_window = _without_padding(ungrouped(W, groups), window)
        target = _mixing(node, tensor, W.reshape(outputs, -1), bias, remaining_window)
    return node.tensors.signal(target, shape, str(node))


def _without_padding(W: np.ndarray, window: Window) -> tuple[np.ndarray, Window | None]:
    """Weights and window without the taps that meet only padding.

    From a vector to a vector one tap at most is left, which makes a dense layer: no window.
    """
    if math.prod(window.positions) > 1 or math.prod(window.out) > 1:
        return W, window
    inside = window.indices()[0] == 0
    return (W[:, :, inside] if inside.any() else np.zeros_like(W[:, :, :1])), None


OPERATORS = {"Gemm": gemm, "Conv": conv, "ConvTranspose": conv_transpose}
