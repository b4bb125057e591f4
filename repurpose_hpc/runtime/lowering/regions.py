"""Regions of maps: what a convolution can compute from a part of what it reads, and what is left."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from repurpose_hpc.kernels import Region
from repurpose_hpc.model.operations import Window
from repurpose_hpc.runtime.lowering.local import on_two_axes, two


def inside(known: np.ndarray, window: Window) -> Region | None:
    """The outputs of a window that see nothing of a map but padding and what is known of it.

    Args:
        known: whether each position of the map is known, (values,) bool.
        window: over maps with one axis or two.

    Returns:
        the region; None: there is no such output, or these, or what is known, are no rectangle.
    """
    on_axes, map_shape = on_two_axes(window), two(window.positions)
    grid = known.reshape(map_shape)
    ranges = []
    for axis, (size, out) in enumerate(zip(map_shape, two(window.out), strict=True)):
        lines = np.flatnonzero(grid.any(axis=1 - axis))
        taps = np.arange(on_axes.kernel[axis]) * on_axes.dilations[axis] - on_axes.pads[axis]
        seen = np.arange(out)[:, None] * on_axes.strides[axis] + taps
        is_inside = ((seen < 0) | (seen >= size) | np.isin(seen, lines)).all(axis=1)
        ranges.append((lines, np.flatnonzero(is_inside)))
    (rows, p), (columns, q) = ranges
    if not p.size or not q.size or np.count_nonzero(grid) != rows.size * columns.size:
        return None
    region = Region((int(p[0]), int(q[0])), (int(p[-1]) + 1, int(q[-1]) + 1))
    return region if area(region) == p.size * q.size else None


def outside(region: Region, shape: tuple[int, int]) -> Iterator[Region]:
    """Regions that cover the rest of maps of ``shape``: above and below in whole rows, then at the sides."""
    (top, left), (bottom, right) = region
    height, width = shape
    for first, end in (
        ((0, 0), (top, width)),
        ((bottom, 0), (height, width)),
        ((top, 0), (bottom, left)),
        ((top, right), (bottom, width)),
    ):
        rest = Region(first, end)
        if area(rest):
            yield rest


def area(region: Region) -> int:
    """Positions of a region."""
    (top, left), (bottom, right) = region
    return (bottom - top) * (right - left)
