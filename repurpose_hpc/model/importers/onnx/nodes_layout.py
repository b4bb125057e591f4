"""ONNX operators that change where values lie: shapes, Concat, Split, slices, padding, resize."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.importers.onnx.node import Node
from repurpose_hpc.model.importers.onnx.signal import DoesNotFit, Signal, Unsupported, Value
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
    if not sizes or sizes[0] != signal.shape[0]:
        raise Unsupported("its result does not keep the samples, and nothing else, on the first axis")
    return replace(signal.reshaped(sizes), origin=str(node))


def reshaped_sizes(node: Node, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that Flatten, Reshape, Squeeze or Unsqueeze makes of ``sizes``, samples included."""
    virtual = np.broadcast_to(np.int8(0), sizes)  # takes no memory
    try:
        if node.operator == "Flatten":
            axis = node.attributes.get("axis", 1)
            if not -len(sizes) <= axis <= len(sizes):
                raise IndexError(f"attribute axis is {axis}")
            return int(np.prod(sizes[:axis])), int(np.prod(sizes[axis:]))
        if node.operator == "Reshape":
            return virtual.reshape(_reshape_target(node, sizes)).shape
        axes = node.integers(1, "axes")
        if node.operator == "Unsqueeze":
            return np.expand_dims(virtual, tuple(axes or ())).shape
        return np.squeeze(virtual, None if axes is None else tuple(axes)).shape
    except (ValueError, IndexError) as error:
        raise DoesNotFit(f"it does not fit features of shape {sizes[1:]}: {error}") from None


def _reshape_target(node: Node, sizes: tuple[int, ...]) -> list[int]:
    target = node.sizes(1).tolist()
    if min(target, default=0) < -1:
        raise ValueError(f"a shape of {target}")
    if node.attributes.get("allowzero", 0):
        return target
    return [sizes[axis] if size == 0 else size for axis, size in enumerate(target)]


def transpose(node: Node) -> Signal:
    """Axes in another order, the samples in front."""
    signal = node.signal()
    order = node.attributes.get("perm", list(reversed(range(len(signal.shape)))))
    if sorted(order) != list(range(len(signal.shape))):
        raise Unsupported(f"attribute perm is {order}, expected each of {len(signal.shape)} axes once")
    if order[0] != 0:
        raise Unsupported(f"attribute perm is {order}, which moves the axis of the samples")
    if order == sorted(order):
        return signal
    return _placed(node, signal, signal.places.transpose([axis - 1 for axis in order[1:]]))


def expand(node: Node) -> Signal:
    """Repeated values along axes of size 1."""
    signal, target = node.signal(), tuple(node.sizes(1).tolist())
    if len(target) == len(signal.shape) and any(size and size % BATCHES[0] == 0 for size in target[1:]):
        raise Unsupported("its shape depends on the size of the batch, beside the axis of the samples")
    try:
        sizes = np.broadcast_shapes(signal.shape, target)
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
        sizes = [max(0, min(even_size, size - even_size * part)) for part in range(parts)]
        if node.opset < 18 and size % parts:
            raise Unsupported(f"it splits {size} values into {parts} parts, expected as many in each")
    if sum(sizes) != size or min(sizes) < 0 or len(sizes) < node.outputs:
        raise Unsupported(f"it splits {size} values into {node.outputs} parts of {sizes}")
    places = np.split(signal.places, np.cumsum(sizes)[:-1], axis)
    return tuple(_placed(node, signal, part) for part in places)


def slices(node: Node) -> Signal:
    """Slice."""
    signal = node.signal()
    starts, ends = node.required_integers(1, "starts"), node.required_integers(2, "ends")
    axes, steps = node.integers(3, "axes"), node.integers(4, "steps")
    rank = len(signal.shape)
    axes, steps = list(range(len(starts))) if axes is None else axes, steps or [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise Unsupported(f"its starts are {starts}, ends {ends}, axes {axes} and steps {steps}")
    if any(not -rank <= axis < rank for axis in axes) or len({axis % rank for axis in axes}) < len(axes):
        raise Unsupported(f"its axes are {axes} of {rank}, expected each once")
    chosen = [slice(None)] * (rank - 1)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
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
    return _placed(node, signal, np.asarray(places))


OPERATORS: dict[str, Callable[[Node], Value | Iterable[Value]]] = {
    "Shape": shape,
    "Size": size,
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), reshape),
    "Transpose": transpose,
    "Expand": expand,
    "Split": split,
    "Slice": slices,
    "Gather": gather,
}
