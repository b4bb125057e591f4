"""Operators that move, choose or repeat entries, in NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from repurpose_hpc.model.ends.call import EMBEDDING, Call, NotByNumpy, function


@function("Reshape")
def _reshape(call: Call, x: np.ndarray, shape: np.ndarray | None = None) -> np.ndarray:
    sizes = call.integers("shape", shape) or []
    if not call.get("allowzero"):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    if min(sizes, default=0) < -1:  # for NumPy, the same as -1
        raise ValueError(f"a shape of {sizes}")
    return x.reshape(sizes)


@function("Flatten")
def _flatten(call: Call, x: np.ndarray) -> np.ndarray:
    axis = call.get("axis", 1)
    return x.reshape(math.prod(x.shape[: axis + x.ndim if axis < 0 else axis]), -1)


@function("Transpose")
def _transpose(call: Call, x: np.ndarray) -> np.ndarray:
    return x.transpose(call.get("perm"))


@function("Squeeze")
def _squeeze(call: Call, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    given = call.integers("axes", axes)
    return np.squeeze(x, None if given is None else tuple(given))


@function("Unsqueeze")
def _unsqueeze(call: Call, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    return np.expand_dims(x, tuple(call.integers("axes", axes) or ()))


@function("Concat")
def _concat(call: Call, *x: np.ndarray) -> np.ndarray:
    return np.concatenate(x, axis=call.get("axis", 1))


@function("Split")
def _split(call: Call, x: np.ndarray, sizes: np.ndarray | None = None) -> Sequence[np.ndarray]:
    axis, parts = call.get("axis", 0), call.integers("split", sizes)
    if parts is None:
        chunk = -(-x.shape[axis] // call.outputs)
        parts = [chunk] * (call.outputs - 1)
        parts.append(x.shape[axis] - sum(parts))
    if sum(parts) != x.shape[axis] or min(parts) < 0:
        raise ValueError(f"parts {parts} of an axis of {x.shape[axis]}")
    return np.split(x, np.cumsum(parts)[:-1], axis)


@function("Slice")
def _slice(
    call: Call,
    x: np.ndarray,
    starts: np.ndarray | None = None,
    ends: np.ndarray | None = None,
    axes: np.ndarray | None = None,
    steps: np.ndarray | None = None,
) -> np.ndarray:
    first, last = call.integers("starts", starts) or [], call.integers("ends", ends) or []
    on = call.integers("axes", axes) or range(len(first))
    by = call.integers("steps", steps) or [1] * len(first)
    index = [slice(None)] * x.ndim
    if len({axis % x.ndim for axis in on}) < len(on):
        raise ValueError(f"axes {list(on)}")
    for axis, start, end, step in zip(on, first, last, by, strict=True):
        index[axis] = _bounded(start, end, step, x.shape[axis])
    return x[tuple(index)]


def _bounded(start: int, end: int, step: int, size: int) -> slice:
    """A slice of Python from one of ONNX, whose bounds may lie beyond both ends."""
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    if step > 0:
        return slice(min(max(start, 0), size), min(max(end, 0), size), step)
    start, end = min(max(start, -1), size - 1), min(max(end, -1), size - 1)
    if start < 0:
        return slice(0, 0)
    return slice(start, None if end < 0 else end, step)


@function("Gather")
def _gather(call: Call, x: np.ndarray, index: np.ndarray) -> np.ndarray:
    axis = call.get("axis", 0)
    return np.take(x, _within(index, x.shape[axis]), axis)


@function("GatherElements")
def _gather_elements(call: Call, x: np.ndarray, index: np.ndarray) -> np.ndarray:
    axis = call.get("axis", 0)
    return np.take_along_axis(x, _within(index, x.shape[axis]), axis)


@function("ai.onnx.ml.ArrayFeatureExtractor")
def _array_feature_extractor(call: Call, x: np.ndarray, index: np.ndarray) -> np.ndarray:
    result = np.take(x, _within(index.ravel(), x.shape[-1]), -1)
    return result.reshape(1, -1) if x.ndim == 1 else result


@function(EMBEDDING)
def _embedding(call: Call, table: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The rows of a table; other than in ONNX, no number counts from its end, and padding has no row."""
    if ids.size and not 0 <= ids.min() <= ids.max() < len(table):
        wrong = ids[(ids < 0) | (ids >= len(table))].flat[0]
        raise IndexError(f"expected token ids from 0 to {len(table) - 1}, found {wrong}")
    padding = call.get("padding")
    if padding is not None and (ids == padding).any():
        raise IndexError(f"expected texts without padding, found its id {padding}")
    return table[ids]


def _within(index: np.ndarray, size: int) -> np.ndarray:
    outside = index[(index < -size) | (index >= size)]
    if outside.size:
        raise IndexError(f"expected indices from {-size} to {size - 1}, found {outside.flat[0]}")
    return index


@function("OneHot")
def _one_hot(call: Call, index: np.ndarray, depth: np.ndarray, values: np.ndarray) -> np.ndarray:
    classes, axis = int(np.ravel(depth)[0]), call.get("axis", -1)
    index = np.where(index < 0, index + classes, index)
    axis = axis + index.ndim + 1 if axis < 0 else axis
    places = np.arange(classes).reshape(-1, *[1] * (index.ndim - axis))
    return np.where(np.expand_dims(index, axis) == places, values[1], values[0])


@function("Expand")
def _expand(call: Call, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist())))


@function("Tile")
def _tile(call: Call, x: np.ndarray, repeats: np.ndarray) -> np.ndarray:
    return np.tile(x, repeats.tolist())


@function("Pad")
def _pad(
    call: Call,
    x: np.ndarray,
    pads: np.ndarray | None = None,
    value: np.ndarray | None = None,
    axes: np.ndarray | None = None,
) -> np.ndarray:
    given, mode = call.integers("pads", pads) or [], call.get("mode", "constant")
    on = range(x.ndim) if axes is None else axes.tolist()
    if mode not in ("constant", "edge", "reflect") or min(given, default=0) < 0:
        raise NotByNumpy
    widths = [(0, 0)] * x.ndim
    for axis, before, after in zip(on, given[: len(on)], given[len(on) :], strict=True):
        widths[axis] = before, after
    if mode == "reflect" and any(max(width) >= size for width, size in zip(widths, x.shape, strict=True)):
        raise ValueError(f"pads {given} that reflect axes of {x.shape}")  # NumPy would reflect again
    if mode != "constant":
        return np.pad(x, widths, mode)
    fill = call.get("value", 0) if value is None else value.item()
    return np.pad(x, widths, constant_values=fill)


@function("DepthToSpace")
def _depth_to_space(call: Call, x: np.ndarray) -> np.ndarray:
    (n, c, h, w), block = x.shape, call.get("blocksize")
    if call.get("mode", "DCR") == "DCR":
        x = x.reshape(n, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // block**2, h * block, w * block)


@function("SpaceToDepth")
def _space_to_depth(call: Call, x: np.ndarray) -> np.ndarray:
    (n, c, h, w), block = x.shape, call.get("blocksize")
    if call.get("mode", "DCR") != "DCR":
        raise NotByNumpy
    x = x.reshape(n, c, h // block, block, w // block, block).transpose(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * block**2, h // block, w // block)


@function("Shape")
def _shape(call: Call, x: np.ndarray) -> np.ndarray:
    return np.array(x.shape[call.get("start", 0) : call.get("end")], np.int64)


@function("Size")
def _size(call: Call, x: np.ndarray) -> np.ndarray:
    return np.array(x.size, np.int64)


@function("ConstantOfShape")
def _constant_of_shape(call: Call, shape: np.ndarray) -> np.ndarray:
    value = call.get("value", np.zeros(1, np.float32))
    return np.full(tuple(shape.tolist()), value.ravel()[0], value.dtype)


@function("Range")
def _range(call: Call, start: np.ndarray, limit: np.ndarray, step: np.ndarray) -> np.ndarray:
    return np.arange(start.item(), limit.item(), step.item()).astype(start.dtype)
