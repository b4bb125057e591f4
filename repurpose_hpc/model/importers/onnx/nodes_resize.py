"""ONNX operators that give maps another size: Resize, Upsample."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from repurpose_hpc.model.importers.onnx.constants import run
from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported
from repurpose_hpc.model.operations import Window

# Of weights that are made of an operator, one for each value that it reads for each that it makes.
LARGEST_TABLE = 1 << 22


def resize(node: Node) -> Signal:
    """Maps of another size: every position the nearest of the old ones, or interpolated axis by axis."""
    signal = node.signal()
    mode = node.text("mode", "nearest")
    for axis, (size, scale) in _resize_factors(node, signal).items():
        if size == signal.shape[axis] and scale == 1:
            continue
        place = node.axis(axis, signal)
        if mode == "nearest":
            nearest = _nearest(node, signal.shape[axis], size, scale)
            signal = signal.placed(signal.places.take(nearest, place))
        else:
            signal = _interpolated(node, signal, place, _weights(node, signal.shape[axis], size, scale))
    return signal


def _weights(node: Node, size: int, out: int, scale: float) -> np.ndarray:
    """Weights of the old positions along an axis for each new one, (out, size), by the onnx package."""
    from onnx.helper import make_node

    given = {"mode": node.text("mode", "nearest")}
    coordinates = "half_pixel" if node.opset >= 11 and node.operator == "Resize" else "asymmetric"
    given["coordinate_transformation_mode"] = node.text("coordinate_transformation_mode", coordinates)
    if given["coordinate_transformation_mode"] == "tf_crop_and_resize":
        raise Unsupported("attribute coordinate_transformation_mode is tf_crop_and_resize")
    names = ("antialias", "cubic_coeff_a", "exclude_outside")
    options: dict[str, Any] = {name: node.attributes[name] for name in names if name in node.attributes}
    proto = make_node("Resize", ["x", "", "scales"], ["y"], **given, **options)
    scales = np.array([1, scale], np.float32)
    (weights,) = run(proto, [np.eye(size), None, scales], 19)
    if weights.shape != (size, out):
        raise Unsupported(f"it makes {weights.shape[1]} positions of {size}, expected {out}")
    return weights.T


def _interpolated(node: Node, signal: Signal, place: int, weights: np.ndarray) -> Signal:
    """Weighted sums of positions along an axis, neuron by neuron: taken, weighted, and averaged."""
    tensors, builder = node.tensors, node.tensors.builder
    axis = tensors.axis_of_neurons(signal)
    if axis == place:
        raise Unsupported("it interpolates between neurons (channels)")
    tensor = tensors.map(signal, axis)
    sizes = [size for other, size in enumerate(signal.shape[1:]) if other != axis]
    along = place - (place > axis)
    taps = int((weights != 0).sum(axis=1).max())
    chosen = np.argsort(weights == 0, axis=1, kind="stable")[:, :taps]
    numbers = np.moveaxis(np.arange(math.prod(sizes)).reshape(sizes), along, -1)
    index = np.moveaxis(numbers[..., chosen], -2, along)
    factors = np.take_along_axis(weights, chosen, axis=1)
    beside = (1,) * (len(sizes) - 1 - along)
    table = np.broadcast_to(factors.reshape(-1, *beside, taps), index.shape).ravel() * taps
    neurons = builder.neurons(tensor)
    if neurons * table.size > LARGEST_TABLE:
        raise Unsupported(f"it interpolates {neurons * table.size} values, expected at most {LARGEST_TABLE}")
    name, scale = tensors.name, np.repeat(table[None].astype(np.float32), neurons, axis=0)
    taken = builder.rearrange(name(f"{node.name}.taken"), tensor, index.ravel(), (index.size,))
    weighted = builder.affine(name(f"{node.name}.weighted"), taken, scale, np.zeros_like(scale))
    out = index.size // taps
    window = Window((index.size,), (taps,), (taps,), (1,), (0,), (out,))
    target = builder.pool(name(node.name), weighted, "average", window)
    shape = list(signal.shape)
    shape[1 + place] = len(weights)
    return tensors.signal(target, tuple(shape), str(node), axis)


def _resize_factors(node: Node, signal: Signal) -> dict[int, tuple[int, float]]:
    """The new size of each axis, and its ratio to the old one."""
    has_only_scales = node.operator == "Upsample" or node.opset < 11
    if has_only_scales:
        scales = node.constant(1) if node.input(1) is not None else np.array(node.attributes["scales"])
    else:
        scales = node.constant(2) if node.input(2) is not None else np.empty(0)
    rank = len(signal.shape)
    named = list(node.attributes.get("axes", range(rank)))
    axes = [axis % rank for axis in named if -rank <= axis < rank]
    if len(set(axes)) < len(named):
        raise Unsupported(f"attribute axes is {named} of {rank}, expected each once")
    if scales.size:
        factors = [float(scale) for scale in scales.ravel()]
        if len(factors) != len(axes) or not min(factors) > 0:
            raise Unsupported(f"its scales are {factors} for {len(axes)} axes, expected numbers above 0")
        return {
            axis: (int(np.floor(np.float32(signal.shape[axis]) * np.float32(scale))), scale)
            for axis, scale in zip(axes, factors, strict=True)
        }
    sizes = node.sizes(3).tolist()
    if len(sizes) != len(axes) or min(sizes) < 1:
        raise Unsupported(f"its sizes are {sizes} for {len(axes)} axes, expected numbers above 0")
    old = [signal.shape[axis] for axis in axes]
    return dict(zip(axes, _sized(node, sizes, old), strict=True))


def _sized(node: Node, sizes: list[int], old: list[int]) -> list[tuple[int, float]]:
    """New sizes and their ratio to the old ones, the same for all axes where the node says so."""
    policy = node.text("keep_aspect_ratio_policy", "stretch")
    ratios = [size / each for size, each in zip(sizes, old, strict=True)]
    if policy == "stretch":
        return list(zip(sizes, ratios, strict=True))
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    return [(math.floor(ratio * each + 0.5), ratio) for each in old]


def _nearest(node: Node, size: int, out: int, scale: float) -> np.ndarray:
    """The old position nearest to every new one along an axis; float32, as other runtimes compute it."""
    positions, ratio = np.arange(out, dtype=np.float32), np.float32(scale)
    if node.operator == "Upsample" or node.opset < 11:
        return np.minimum(np.floor(positions / ratio).astype(np.int64), size - 1)
    coordinates = node.text("coordinate_transformation_mode", "half_pixel")
    if coordinates == "asymmetric":
        x = positions / ratio
    elif coordinates == "align_corners":
        x = positions * (size - 1) / max(out - 1, 1)
    elif coordinates == "half_pixel" or (coordinates == "pytorch_half_pixel" and out > 1):
        x = (positions + 0.5) / ratio - 0.5
    elif coordinates == "pytorch_half_pixel":
        x = positions * 0.0
    else:
        raise Unsupported(f"attribute coordinate_transformation_mode is {coordinates!r}")
    rounded = _ROUNDINGS[node.text("nearest_mode", "round_prefer_floor")](x)
    return np.clip(rounded, 0, size - 1).astype(np.int64)


_ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}

OPERATORS: dict[str, Callable[[Node], Signal]] = dict.fromkeys(("Resize", "Upsample"), resize)
