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
from ..jit import jit
from ..registry import Need, kernel


class Layout(NamedTuple):
    """The copy of one map: phases down and across, and in each of them rows of ``pitch`` numbers."""

    down: int
    across: int
    rows: int
    pitch: int


@jit
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
def find_offsets(window: Window2D, layout: Layout, offsets: np.ndarray) -> None:
    """Find what the first output sees with each entry of a window, in the copies of one map after another.

    Args:
        window: of the output.
        layout: of the copies.
        offsets: (maps · kh · kw,) int64, overwritten.
    """
    kernel, strides, dilations = window.kernel, window.strides, window.dilations
    for k in range(offsets.size):
        j, entry = k // (kernel[0] * kernel[1]), k % (kernel[0] * kernel[1])
        lower, right = entry // kernel[1] * dilations[0], entry % kernel[1] * dilations[1]
        plane = (j * layout.down + lower % strides[0]) * layout.across + right % strides[1]
        row = plane * layout.rows + lower // strides[0]
        offsets[k] = row * layout.pitch + right // strides[1]


@jit
def copy_map(
    source: np.ndarray,
    above: int,
    before: int,
    strides: Pair,
    fill: float,
    layout: Layout,
    copy: np.ndarray,
) -> None:
    """The copy of one map.

    Args:
        source: (H, W).
        above, before: row and column of the map where the copy begins, negative in the padding.
        strides: of rows and columns.
        fill: what is seen beyond the map.
        layout: of the copy.
        copy: (``size_of(layout)``,), overwritten.
    """
    phases = copy.reshape(layout.down, layout.across, layout.rows, layout.pitch)
    for u in range(layout.down):
        for v in range(layout.across):
            copy_grid(source, above + u, before + v, strides, fill, phases[u, v])


@jit
def copy_grid(
    source: np.ndarray, above: int, before: int, strides: Pair, fill: float, target: np.ndarray
) -> None:
    """target[r, t] = source[above + r · stride, before + t · stride], or ``fill`` beyond the map (H, W)."""
    # Loops in one function where slices and calls would do: rows are short, and both take longer than they.
    top, bottom = inside(above, strides[0], target.shape[0], 0, source.shape[0])
    left, right = inside(before, strides[1], target.shape[1], 0, source.shape[1])
    padding = source.dtype.type(fill)
    for r in range(target.shape[0]):
        row = target[r]
        if r < top or r >= bottom or left == right:
            for t in range(row.size):
                row[t] = padding
            continue
        for t in range(left):
            row[t] = padding
        for t in range(right, row.size):
            row[t] = padding
        part, seen = row[left:right], source[above + r * strides[0]][before + left * strides[1] :]
        if strides[1] == 1:
            for t in range(part.size):
                part[t] = seen[t]
        else:
            strided = seen[:: strides[1]]
            for t in range(part.size):
                part[t] = strided[t]


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
        grid = out[k].reshape(rows, width)
        copied = 0
        while copied < rows:
            b, p = (first + copied) // shape[0], (first + copied) % shape[0]
            part = grid[copied : copied + shape[0] - p]
            copy_grid(x[j, b], p * strides[0] + lower - pads[0], right - pads[1], strides, 0.0, part)
            copied += len(part)
