"""What an operation is on a rectangle of its target: what it reads for it, and the operation that does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from repurpose_hpc.model.operations import (
    Affine,
    Combine,
    Depthwise,
    Elementwise,
    Mixing,
    Operation,
    Pool,
    Rearrange,
    Select,
    Shape,
    Window,
)
from repurpose_hpc.model.registry import entered
from repurpose_hpc.model.tiles.rectangles import Rectangle, places, shape_of


class Part(NamedTuple):
    """An operation on a rectangle of its target.

    Attributes:
        needs: the rectangle of each source that it reads; None: a vector, as a whole.
        op: it, under the names of the original.
    """

    needs: tuple[Rectangle | None, ...]
    op: Operation


# From an operation, a rectangle of its target, and the shapes of its sources and its target.  None: it cannot
# be done on a rectangle alone.
Rule = Callable[[Any, Rectangle, Sequence[Shape], Shape], Part | None]

RULES: dict[type[Operation], Rule] = {}


def rule(*kinds: type[Operation]) -> Callable[[Rule], Rule]:
    """Enter a function into ``RULES``."""
    return entered(RULES, *kinds)


def part_of(op: Operation, rectangle: Rectangle, sources: Sequence[Shape], target: Shape) -> Part | None:
    """The operation on a rectangle of its target, by its rule; None: it has none there."""
    found = RULES.get(type(op))
    return None if found is None else found(op, rectangle, sources, target)


def seeing_more(part: Part, frame: Rectangle) -> Part:
    """A part whose window is over a rectangle that has all it needs, if both begin alike: no copy.

    What lies behind is seen by no window, such as a row that strides pass over.
    """
    window, need = getattr(part.op, "window", None), part.needs[0]
    if window is None or window.is_pointwise or need is None:
        return part
    if any(first != begin for (first, _), (begin, _) in zip(need, frame, strict=True)):
        return part
    return Part((frame,), replace(part.op, window=replace(window, positions=shape_of(frame))))


@rule(Elementwise, Select)
def _value_by_value(
    op: Operation, rectangle: Rectangle, sources: Sequence[Shape], target: Shape
) -> Part | None:
    if any(source.positions != target.positions for source in sources):
        return None
    return Part((rectangle,) * len(sources), op)


@rule(Combine)
def _combine(op: Combine, rectangle: Rectangle, sources: Sequence[Shape], target: Shape) -> Part | None:
    if any(source.positions not in ((), target.positions) for source in sources):
        return None
    return Part(tuple(rectangle if source.positions else None for source in sources), op)


@rule(Affine)
def _affine(op: Affine, rectangle: Rectangle, sources: Sequence[Shape], target: Shape) -> Part | None:
    if sources[0].positions != target.positions:
        return None
    taken = places(rectangle, target.positions)
    scale, shift = (
        array if array.shape[1] == 1 else np.ascontiguousarray(array[:, taken])
        for array in (op.scale, op.shift)
    )
    return Part((rectangle,), replace(op, scale=scale, shift=shift))


@rule(Rearrange)
def _rearrange(op: Rearrange, rectangle: Rectangle, sources: Sequence[Shape], target: Shape) -> Part | None:
    positions = sources[0].positions
    taken = op.index[places(rectangle, target.positions)]
    inside = taken >= 0
    if not positions or not inside.any():
        return None
    axes = np.unravel_index(taken[inside], positions)
    need = tuple((int(axis.min()), int(axis.max()) + 1) for axis in axes)
    index = np.full(taken.size, -1)
    moved = [axis - first for axis, (first, _) in zip(axes, need, strict=True)]
    index[inside] = np.ravel_multi_index(moved, shape_of(need))
    return Part((need,), replace(op, index=index))


@rule(Mixing, Depthwise)
def _filter(
    op: Mixing | Depthwise, rectangle: Rectangle, sources: Sequence[Shape], target: Shape
) -> Part | None:
    cut = _window(op.window, rectangle, sources[0], target)
    if cut is None:
        return None
    need, window = cut
    part = replace(op, window=window)
    return Part((need,), replace(part, fixed=True) if isinstance(part, Mixing) else part)


@rule(Pool)
def _pool(op: Pool, rectangle: Rectangle, sources: Sequence[Shape], target: Shape) -> Part | None:
    cut = _window(op.window, rectangle, sources[0], target)
    if cut is None:
        return None
    need, window = cut
    extent = tuple(end - first for end, (first, _) in zip(op.extent, need, strict=False))
    return Part((need,), replace(op, window=window, extent=extent))


def _window(
    window: Window | None, rectangle: Rectangle, source: Shape, target: Shape
) -> tuple[Rectangle, Window] | None:
    """What a window sees of a map for a rectangle of its target, and the window over that part.

    None: it is over another shape, or sees nothing but padding.
    """
    if window is None or (window.positions, window.out) != (source.positions, target.positions):
        return None
    need, pads = [], []
    for (first, end), size, kernel, stride, dilation, pad in zip(
        rectangle,
        window.positions,
        window.kernel,
        window.strides,
        window.dilations,
        window.pads,
        strict=True,
    ):
        seen = np.arange(first, end)[:, None] * stride + np.arange(kernel) * dilation - pad
        seen = seen[(seen >= 0) & (seen < size)]
        if not seen.size:
            return None
        need.append((int(seen.min()), int(seen.max()) + 1))
        pads.append(need[-1][0] - (first * stride - pad))
    positions = shape_of(tuple(need))
    return tuple(need), replace(window, positions=positions, pads=tuple(pads), out=shape_of(rectangle))
