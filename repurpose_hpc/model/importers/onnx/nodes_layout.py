"""ONNX operators that change where values lie: shapes, Concat, Split, slices, padding, resize."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported, Value
from repurpose_hpc.model.importers.onnx.varying import BATCHES, Varying


def _placed(node: Node, signal: Signal, index: np.ndarray) -> Signal:
    return replace(signal.placed(index), origin=str(node))


def shape(node: Node) -> Value:
    """The shape, a constant."""
    sizes = node.signal(after_head=True).shape
    start, end, _ = slice(node.attributes.get("start", 0), node.attributes.get("end")).indices(len(sizes))
    return Varying.shape(sizes[start:end]) if start == 0 else np.array(sizes[start:end], np.int64)


def size(node: Node) -> Value:
    """The number of values, a constant."""
    signal = node.signal(after_head=True)
    first, second = (
        np.array(batch * signal.features)
        for batch in (BATCHES if signal.shape[0] == BATCHES[0] else signal.shape[:1] * 2)
    )
    return Varying.of(first, second)


def reshape(node: Node) -> Signal:
    """Flatten, Reshape, Squeeze or Unsqueeze: samples stay apart, values keep their order."""
    signal = node.signal(after_head=True)
    sizes = reshaped_sizes(node, signal.shape)
    if len(sizes) < 2 or sizes[0] != signal.shape[0]:
        raise Unsupported("its result does not keep the samples, and nothing else, on the first axis")
    return replace(signal.reshaped(sizes), origin=str(node))


def reshaped_sizes(node: Node, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that Flatten, Reshape, Squeeze or Unsqueeze makes of ``sizes``, samples included."""
    virtual = np.broadcast_to(np.int8(0), sizes)  # takes no memory
    try:
        if node.operator == "Flatten":
            axis = node.attributes.get("axis", 1)
            return int(np.prod(sizes[:axis])), int(np.prod(sizes[axis:]))
        if node.operator == "Reshape":
            return virtual.reshape(_reshape_target(node, sizes)).shape
        axes = node.integers(1, "axes")
        if node.operator == "Unsqueeze":
            return np.expand_dims(virtual, tuple(axes or ())).shape
        return np.squeeze(virtual, None if axes is None else tuple(axes)).shape
    except (ValueError, IndexError) as error:
        raise Unsupported(f"it does not fit features of shape {sizes[1:]}: {error}") from None


def _reshape_target(node: Node, sizes: tuple[int, ...]) -> list[int]:
    target = node.sizes(1).tolist()
    if node.attributes.get("allowzero", 0):
        return target
    return [sizes[axis] if size == 0 else size for axis, size in enumerate(target)]


def transpose(node: Node) -> Signal:
    """Axes in another order, the samples in front."""
    signal = node.signal()
    order = node.attributes.get("perm", list(reversed(range(len(signal.shape)))))
    if order[0] != 0:
        raise Unsupported(f"attribute perm is {order}, which moves the axis of the samples")
    if order == sorted(order):
        return signal
    return _placed(node, signal, signal.places.transpose([axis - 1 for axis in order[1:]]))


def expand(node: Node) -> Signal:
    """Repeated values along axes of size 1."""
    signal = node.signal()
    try:
        sizes = np.broadcast_shapes(signal.shape, tuple(node.sizes(1).tolist()))
    except ValueError as error:
        raise Unsupported(str(error)) from None
    if len(sizes) != len(signal.shape) or sizes[0] != signal.shape[0]:
        raise Unsupported(f"it expands shape {signal.shape[1:]} over the samples or a further axis")
    return _placed(node, signal, np.broadcast_to(signal.places, sizes[1:]))


def split(node: Node) -> tuple[Signal, ...]:
    """Parts along one axis."""
    signal = node.signal()
    axis = node.axis(node.attributes.get("axis", 0), signal)
    size, parts = signal.shape[1 + axis], node.attributes.get("num_outputs", node.outputs)
    sizes = node.integers(1, "split")
    if sizes is None:
        even_size = -(-size // parts)
        sizes = [min(even_size, size - first) for first in range(0, size, even_size)]
    places = np.split(signal.places, np.cumsum(sizes)[:-1], axis)
    return tuple(_placed(node, signal, part) for part in places)


def slices(node: Node) -> Signal:
    """Slice."""
    signal = node.signal()
    starts, ends = node.required_integers(1, "starts"), node.required_integers(2, "ends")
    axes, steps = node.integers(3, "axes"), node.integers(4, "steps")
    chosen = [slice(None)] * (len(signal.shape) - 1)
    for place, axis in enumerate(axes or range(len(starts))):
        start, end, step = starts[place], ends[place], steps[place] if steps else 1
        rank = len(signal.shape)
        size = signal.shape[axis]
        if axis % rank == 0 and range(size)[start:end:step] == range(size):
            continue
        # From the back, an end beyond the front means that the first is included.
        chosen[node.axis(axis, signal)] = slice(start, None if step < 0 and end < -size else end, step)
    return _placed(node, signal, signal.places[tuple(chosen)])


def gather(node: Node) -> Signal:
    """Some places along an axis."""
    signal, indices = node.signal(), node.constant(1)
    axis = node.axis(node.attributes.get("axis", 0), signal)
    try:
        places = np.take(signal.places, indices, axis)
    except IndexError as error:
        raise Unsupported(str(error)) from None
    if places.ndim == 0:
        raise Unsupported("its result has no axis but that of the samples")
    return _placed(node, signal, places)


def resize(node: Node) -> Signal:
    """Maps of another size, every position the nearest of the old ones."""
    signal = node.signal()
    mode = node.text("mode", "nearest")
    if mode != "nearest":
        raise Unsupported(f"attribute mode is {mode!r}, expected 'nearest'")
    node.require("keep_aspect_ratio_policy", b"stretch")
    places = signal.places
    for axis, (size, scale) in _resize_factors(node, signal).items():
        if size != signal.shape[axis] or scale != 1:
            nearest = _nearest(node, signal.shape[axis], size, scale)
            places = places.take(nearest, node.axis(axis, signal))
    return _placed(node, signal, places)


def _resize_factors(node: Node, signal: Signal) -> dict[int, tuple[int, float]]:
    """The new size of each axis, and its ratio to the old one."""
    has_only_scales = node.operator == "Upsample" or node.opset < 11
    if has_only_scales:
        scales = node.constant(1) if node.input(1) is not None else np.array(node.attributes["scales"])
    else:
        scales = node.constant(2) if node.input(2) is not None else np.empty(0)
    axes = [axis % len(signal.shape) for axis in node.attributes.get("axes", range(len(signal.shape)))]
    if scales.size:
        factors = [float(scale) for scale in scales.ravel()]
        return {
            axis: (int(np.floor(np.float32(signal.shape[axis]) * np.float32(scale))), scale)
            for axis, scale in zip(axes, factors, strict=True)
        }
    sizes = node.sizes(3).tolist()
    return {axis: (size, size / signal.shape[axis]) for axis, size in zip(axes, sizes, strict=True)}


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

OPERATORS: dict[str, Callable[[Node], Value | Iterable[Value]]] = {
    "Shape": shape,
    "Size": size,
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), reshape),
    "Transpose": transpose,
    "Expand": expand,
    "Split": split,
    "Slice": slices,
    "Gather": gather,
    **dict.fromkeys(("Resize", "Upsample"), resize),
}
