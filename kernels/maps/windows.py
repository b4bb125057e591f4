"""Windows at the border of a map, and copies of what they see.

A map is the last two dimensions of a C-contiguous (neurons, batch, H, W) array.  Output position (p, q)
of a window sees, with its entry (u, v), row p · stride + u · dilation − pad of the map, and the column
likewise; all of these are pairs, for rows and columns.  Beyond the map it sees zeros.

*Copies.*  What a block of output rows sees of a map is copied with its border.  In the copy the columns
and rows that a stride skips lie apart (*phases*), so that with any stride one entry of a window sees
consecutive numbers for consecutive outputs: the one of output row p and column q at
``offset + p · pitch + q``.  Loops then run over all these positions as if they were one row, at the
price of a few results between the rows that nobody looks at.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..arguments import INTEGER, PAIR, REAL, WINDOW, Array, Pair, Window2D
from ..jit import in_both, jit
from ..llvm.map_rows import copy_row
from ..registry import Need, kernel

# A copy of all maps stays in the second cache, with space beside it for weights or a target.
COPY_BYTES = 1 << 18


class Layout(NamedTuple):
    """The copy of one map: phases down and across, and in each of them rows of ``pitch`` numbers."""

    down: int
    across: int
    rows: int
    pitch: int


class Seen(NamedTuple):
    """Numbers of a map: every so many rows and columns from (above, before) on, ``fill`` beyond the map."""

    above: int
    before: int
    strides: Pair
    fill: float


@in_both
def layout_of(shape: Pair, window: Window2D) -> Layout:
    """The copy that an output of ``shape`` needs."""
    kernel, strides, dilations = window.kernel, window.strides, window.dilations
    further_down, further_right = (kernel[0] - 1) * dilations[0], (kernel[1] - 1) * dilations[1]
    return Layout(
        min(strides[0], further_down + 1),
        min(strides[1], further_right + 1),
        shape[0] + further_down // strides[0],
        shape[1] + further_right // strides[1],
    )


@jit
def size_of(layout: Layout) -> int:
    """Numbers in a copy."""
    return layout.down * layout.across * layout.rows * layout.pitch


@jit
def rows_of_a_copy(x: np.ndarray, heights: int, width: int, window: Window2D) -> int:
    """Output rows to take from one copy of all maps, so that all copies have about one size."""
    one_row = layout_of((1, width), window)
    row_bytes = max(1, x.shape[0] * one_row.down * one_row.across * one_row.pitch * x.itemsize)
    limit = max(1, COPY_BYTES // row_bytes - (one_row.rows - 1))
    return -(-heights // -(-heights // limit))


@jit
def find_offsets(window: Window2D, layout: Layout, offsets: np.ndarray) -> None:
    """Find what the first output sees with each entry of a window, in the copies of one map after another.

    Args:
        window: of the output.
        layout: of the copies.
        offsets: (maps · kh · kw,) int64, overwritten.
    """
    kernel, strides, dilations = window.kernel, window.strides, window.dilations
    entries = kernel[0] * kernel[1]
    for k in range(min(entries, offsets.size)):
        lower, right = k // kernel[1] * dilations[0], k % kernel[1] * dilations[1]
        plane = lower % strides[0] * layout.across + right % strides[1]
        offsets[k] = (plane * layout.rows + lower // strides[0]) * layout.pitch + right // strides[1]
    size = size_of(layout)
    for k in range(entries, offsets.size):
        offsets[k] = offsets[k - entries] + size


@jit
def map_start(x: np.ndarray, j: int, b: int) -> int:
    """Numbers before the map of a neuron and a sample in ``x``."""
    return (j * x.shape[1] + b) * x.shape[2] * x.shape[3]


@jit
def copy_map(
    source: np.ndarray, start: int, shape: Pair, seen: Seen, layout: Layout, copy: np.ndarray, begin: int
) -> None:
    """The copy of one map.

    Args:
        source: with the map, of ``shape``, from its number ``start`` on, C-contiguous.
        seen: from where the copy begins.
        layout: of the copy.
        copy: one-dimensional, ``size_of(layout)`` numbers from ``begin`` on are overwritten.
    """
    for u in range(layout.down):
        for v in range(layout.across):
            phase = Seen(seen.above + u, seen.before + v, seen.strides, seen.fill)
            to = begin + (u * layout.across + v) * layout.rows * layout.pitch
            copy_grid(source, start, shape, phase, copy, to, (layout.rows, layout.pitch))


@jit
def copy_grid(
    source: np.ndarray, start: int, shape: Pair, seen: Seen, target: np.ndarray, begin: int, size: Pair
) -> None:
    """Copy what is ``seen`` of a map, with its border, into rows and columns; else see ``copy_map``."""
    (height, width), (rows, columns), stride = shape, size, seen.strides[1]
    fill = source.dtype.type(seen.fill)
    for r in range(rows):
        row, to = seen.above + r * seen.strides[0], begin + r * columns
        is_inside = 0 <= row < height
        place, known = start + row * width if is_inside else 0, width if is_inside else 0
        if stride <= 2:
            copy_row(source, place, known, seen.before, stride, fill, target, to, columns)
            continue
        first, end = inside(seen.before, stride, columns, 0, known)
        for t in range(columns):
            target[to + t] = source[place + seen.before + t * stride] if first <= t < end else fill


@jit
def inside(start: int, step: int, count: int, low: int, high: int) -> tuple[int, int]:
    """The range (first, end) of those t in 0 .. count − 1 for which low <= start + t · step < high."""
    if step == 1:  # divisions take long
        first, end = low - start, high - start
    else:
        first, end = -((start - low) // step), -((start - high) // step)
    first = min(max(0, first), count)
    return first, max(first, min(count, end))


@kernel(
    arguments={
        "x": Array(REAL, 4),
        "first": INTEGER,
        "shape": PAIR,
        "window": WINDOW,
        "out": Array(REAL, 2),
    },
    need=Need.MAPS,
)
def patches(x: np.ndarray, first: int, shape: Pair, window: Window2D, out: np.ndarray) -> None:
    """Copy what a range of output rows sees into a matrix: a convolution is its product with the weights.

    Args:
        x: (n, batch, H, W).
        first: the first output row, counted through all samples: sample · OH + row.
        shape: (OH, OW), of the output maps.
        window: of the convolution.
        out: (n · kh · kw, rows · OW), overwritten; its rows in the order of the kernels' entries.
    """
    kernel, strides, dilations, pads = window
    width = shape[1]
    rows = out.shape[1] // width
    for k in range(out.shape[0]):
        j, entry = k // (kernel[0] * kernel[1]), k % (kernel[0] * kernel[1])
        lower, right = entry // kernel[1] * dilations[0], entry % kernel[1] * dilations[1]
        copied = 0
        while copied < rows:
            b, p = (first + copied) // shape[0], (first + copied) % shape[0]
            some = min(rows - copied, shape[0] - p)
            seen = Seen(p * strides[0] + lower - pads[0], right - pads[1], strides, 0.0)
            to = (k * rows + copied) * width
            copy_grid(
                x.reshape(-1), map_start(x, j, b), x.shape[2:], seen, out.reshape(-1), to, (some, width)
            )
            copied += some
