"""What windows see of every map alike, prepared once for many maps (see ``View``)."""

from __future__ import annotations

import numpy as np

from ..arguments import Window2D
from ..jit import jit
from ..llvm.map_view import STEPS, View, lanes_for, parts_of, rows_for, tallest_run
from ..llvm.vectors import HAS_MASKS, lanes
from .windows import inside


@jit
def with_long_rows(
    x: np.ndarray, window: Window2D, out: np.ndarray
) -> tuple[np.ndarray, Window2D, np.ndarray]:
    """The same maps, windows and outputs, but maps of one column as rows, and samples of one row as a map."""
    (n, batch, height, width), (rows, columns) = x.shape, out.shape[2:]
    kernel, strides, dilations, pads = window
    if width == 1 and columns == 1 and kernel[1] == 1 and pads[1] == 0:
        height, width, rows, columns = 1, height, 1, rows
        kernel, strides = (1, kernel[0]), (1, strides[0])
        dilations, pads = (1, dilations[0]), (0, pads[0])
    if batch > 1 and height == 1 and rows == 1 and kernel[0] == 1 and pads[0] == 0:
        batch, height, rows = 1, batch, batch
        strides = 1, strides[1]
    window = Window2D(kernel, strides, dilations, pads)
    return x.reshape(n, batch, height, width), window, out.reshape(n, batch, rows, columns)


@jit
def view_of(x: np.ndarray, window: Window2D, fill: float, out: np.ndarray) -> View:
    """The view of maps.

    Args:
        x: maps, (n, batch, H, W).
        window: on them.
        fill: what lies beyond a map.
        out: outputs, (n, batch, OH, OW).
    """
    shape, out_shape, batch = x.shape[2:], out.shape[2:], x.shape[1]
    rows = rows_for(out_shape[0], window.strides[1])
    runs = _runs(window, tallest_run(rows, window.strides[1]))
    masks = _masks(shape[1], out_shape[1], window, x.dtype)
    slack = 0 if HAS_MASKS else _slack(out_shape[1], window, x.dtype)
    border = np.full(shape[1] + 2 * slack, x.dtype.type(fill))
    copy = np.zeros(0 if HAS_MASKS else shape[0] * shape[1] + 2 * slack, x.dtype)
    return View(shape, window, out_shape, batch, rows, runs, masks, border, slack, copy)


@jit
def _runs(window: Window2D, tallest: int) -> np.ndarray:
    """The runs of tap rows, of at most ``tallest``."""
    kernel, stride, dilation = window.kernel[0], window.strides[0], window.dilations[0]
    step = stride // dilation if stride % dilation == 0 else kernel
    runs = np.empty((kernel, 3), np.int64)
    count = 0
    for start in range(min(step, kernel)):
        first = start
        while first < kernel:
            height = min(tallest, -(-(kernel - first) // step))
            runs[count, 0], runs[count, 1], runs[count, 2] = first, height, step
            first += height * step
            count += 1
    return runs[:count].copy()


@jit
def _masks(width: int, columns: int, window: Window2D, dtype: np.dtype) -> np.ndarray:
    """The bits of the lanes that are inside maps of a width, for so many columns of outputs."""
    stride, dilation, pad = window.strides[1], window.dilations[1], window.pads[1]
    parts, lane = parts_of(stride), lanes(dtype)
    step = 1 if stride in STEPS else stride
    masks = np.empty((-(-columns // lane), window.kernel[1], parts), np.uint32)
    for chunk in range(masks.shape[0]):
        count = lanes_for(columns - chunk * lane, dtype)
        for v in range(masks.shape[1]):
            for part in range(parts):
                column = chunk * lane * stride + v * dilation - pad + part * count
                first, end = inside(column, step, count, 0, width)
                masks[chunk, v, part] = (1 << end) - (1 << first)
    return masks


@jit
def _slack(columns: int, window: Window2D, dtype: np.dtype) -> int:
    """More than a vector reads before or behind a row of a map, for so many columns of outputs."""
    seen = (columns + lanes(dtype)) * window.strides[1] + window.kernel[1] * window.dilations[1]
    return window.pads[1] + seen + lanes(dtype)
