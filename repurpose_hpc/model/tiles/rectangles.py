"""Rectangles of positions of a map."""

from __future__ import annotations

import math

import numpy as np

# Of each axis of a map: the first position, and the one behind the last.
Rectangle = tuple[tuple[int, int], ...]


def whole(positions: tuple[int, ...]) -> Rectangle:
    """All positions of a map of this shape."""
    return tuple((0, size) for size in positions)


def shape_of(rectangle: Rectangle) -> tuple[int, ...]:
    """Positions along each axis."""
    return tuple(end - first for first, end in rectangle)


def area(rectangle: Rectangle) -> int:
    """Number of positions; 0 where an axis has none."""
    return math.prod(max(end - first, 0) for first, end in rectangle)


def around(left: Rectangle, right: Rectangle) -> Rectangle:
    """The smallest rectangle that has both."""
    return tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(left, right, strict=True))


def common(left: Rectangle, right: Rectangle | None) -> Rectangle | None:
    """The positions that two rectangles of one map share; None: none, or there is no second."""
    if right is None:
        return None
    both = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(left, right, strict=True))
    return both if area(both) else None


def places(rectangle: Rectangle, positions: tuple[int, ...], frame: Rectangle | None = None) -> np.ndarray:
    """Where positions of a map lie in it, flattened in C order: (positions,) int64.

    Args:
        rectangle: the positions.
        positions: shape of the map, or of the part ``frame`` of it.
        frame: that part; None: the map itself.
    """
    frame = whole(positions) if frame is None else frame
    flat = np.zeros(1, np.int64)
    for (a, b), (first, _), size in zip(rectangle, frame, positions, strict=True):
        flat = (flat[:, None] * size + np.arange(a - first, b - first)).ravel()
    return flat
