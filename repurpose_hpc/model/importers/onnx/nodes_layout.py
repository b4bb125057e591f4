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


def _axis(node: Node, axis: int, signal: Signal) -> int:
    """An axis of ``signal`` that is not that of the samples, these not counted."""
    rank = len(signal.shape)
    if not -rank <= axis < rank or axis % rank == 0:
        raise Unsupported(
            f"axis {axis} of shape {signal.shape[1:]} with the samples in front is that of the samples"
        )
    return axis % rank - 1


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
    axis = _axis(node, node.attributes.get("axis", 0), signal)
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
        chosen[_axis(node, axis, signal)] = slice(start, None if step < 0 and end < -size else end, step)
    return _placed(node, signal, signal.places[tuple(chosen)])


def gather(node: Node) -> Signal:
    """Some places along an axis."""
    signal, indices = node.signal(), node.constant(1)
    axis = _axis(node, node.attributes.get("axis", 0), signal)
    try:
        places = np.take(signal.places, indices, axis)
    except IndexError as error:
        raise Unsupported(str(error)) from None
    if places.ndim == 0:
        raise Unsupported("its result has no axis but that of the samples")
    return _placed(node, signal, places)


def concat(node: Node) -> Signal:
    """Neurons of several values one after the other."""
    tensors, builder = node.tensors, node.tensors.builder
    values = [node.signal(position) for position in range(len(node.inputs))]
    if len(values) == 1:
        return values[0]
    axis = _axis(node, node.attributes["axis"], values[0])
    settled = [tensors.settled(value) for value in values]
    sources = [value.expression.tensor for value in settled]
    flattened = axis == 0 and all(value.index is None for value in settled)
    if not (flattened and len({builder.positions(source) for source in sources}) == 1):
        sources = [tensors.map(value, axis) for value in values]
    sizes = list(values[0].shape)
    sizes[1 + axis] = sum(value.shape[1 + axis] for value in values)
    count = sum(map(builder.neurons, sources))
    target = builder.select(tensors.name(node.name), tuple(sources), np.arange(count))
    return tensors.signal(target, tuple(sizes), str(node), axis)


def pad(node: Node) -> Signal:
    """Further positions around maps."""
    signal = node.signal()
    rank, mode = len(signal.shape), node.text("mode", "constant")
    pads = node.required_integers(1, "pads")
    axes = [axis % rank for axis in node.integers(3, "axes") or range(rank)]
    widths = [(0, 0)] * rank
    for place, axis in enumerate(axes):
        widths[axis] = (pads[place], pads[place + len(axes)])
    if min(map(min, widths)) < 0:
        raise Unsupported(f"its pads are {pads}, expected none below 0")
    if mode == "edge":
        _refuse_samples(widths)
        return _placed(node, signal, np.pad(signal.places, widths[1:], "edge"))
    if mode == "reflect":
        _refuse_samples(widths)
        return _placed(node, signal, np.pad(signal.places, widths[1:], "reflect"))
    if mode != "constant":
        raise Unsupported(f"attribute mode is {mode!r}, expected 'constant', 'edge' or 'reflect'")
    _refuse_samples(widths[:2] if any(widths[1]) else widths)
    if not any(map(any, widths)):
        return signal
    return _pad_with(node, signal, widths, node.number(2, node.attributes.get("value", 0.0)))


def _refuse_samples(widths: list[tuple[int, int]]) -> None:
    if any(widths[0]):
        raise Unsupported(f"it pads the axis of the samples by {widths[0]}")


def _pad_with(node: Node, signal: Signal, widths: list[tuple[int, int]], value: float) -> Signal:
    tensors = node.tensors
    axis = tensors.axis_of_neurons(signal)
    tensor, pads = tensors.map(signal, axis), [*widths[1 : 1 + axis], *widths[2 + axis :]]
    if any(widths[1 + axis]):
        raise Unsupported(f"it adds neurons (channels): its pads along them are {widths[1 + axis]}")
    sizes = np.delete(signal.shape[1:], axis)
    index = np.pad(np.arange(sizes.prod()).reshape(sizes), pads, constant_values=-1)
    target = tensors.builder.rearrange(tensors.name(node.name), tensor, index.ravel(), index.shape, value)
    shape = tuple(size + sum(width) for size, width in zip(signal.shape, widths, strict=True))
    return tensors.signal(target, shape, str(node), axis)


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
            places = places.take(nearest, _axis(node, axis, signal))
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
    "Concat": concat,
    "Pad": pad,
    **dict.fromkeys(("Resize", "Upsample"), resize),
}
