"""Derivatives by the weights of a convolution, without a matrix of patches.

A weight joins a map of the source and one of the target.  Its derivative is the scalar product of the
derivatives by that of the target, with what its entry of the window sees.  In copies as those of ``windows``
both are consecutive numbers, of several small maps one after the other; between the rows of the target lie
zeros.  So every derivative is one long scalar product, and a few of them share what they read.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..arguments import REAL, WINDOW, Array, Window2D
from ..jit import jit
from ..registry import Need, kernel
from .windows import COPY_BYTES, Layout, Seen, copy_grid, find_offsets, layout_of, map_start, rows_of_a_copy

# Scalar products at a time: 4 · 3 sums fit into 16 registers.
TARGETS, TAPS = 4, 3

_MAPS = Array(REAL, 4)


class Copies(NamedTuple):
    """Copies of some output rows of some samples.

    Attributes:
        source: what windows see: neuron after neuron, phase after phase, sample after sample; zeros behind.
        target: the derivatives: neuron after neuron, sample after sample, for ``TARGETS`` neurons at a time.
        layout: of one sample.
        samples: that there is space for.
        rows: output rows that they are for, at most.
    """

    source: np.ndarray
    target: np.ndarray
    layout: Layout
    samples: int
    rows: int


@kernel(arguments={"g": _MAPS, "x": _MAPS, "window": WINDOW, "out": Array(REAL, 2)}, need=Need.NONE)
def convolution_gradient(g: np.ndarray, x: np.ndarray, window: Window2D, out: np.ndarray) -> None:
    """out[i, (j, u, v)] = Σ over samples and positions of g[i] · what entry (u, v) of a window sees of x[j].

    Args:
        g: derivatives by the target, (m, batch, OH, OW).
        x: the source, (n, batch, H, W).
        window: of the convolution.
        out: (m, n · kh · kw), overwritten.
    """
    out[:] = 0
    if out.size == 0 or g.size == 0:
        return
    copies = _space_for(g, x, window)
    layout = copies.layout
    size, stretch = layout.rows * layout.pitch, copies.samples * layout.rows
    offsets = np.empty(-(-out.shape[1] // TAPS) * TAPS, np.int64)
    of_all = Layout(layout.down, layout.across, stretch, layout.pitch)
    find_offsets(window, of_all, offsets[: out.shape[1]])
    offsets[out.shape[1] :] = offsets[0]  # computed for nothing
    for first in range(0, g.shape[1], copies.samples):
        samples = min(copies.samples, g.shape[1] - first)
        for p in range(0, g.shape[2], copies.rows):
            for b in range(samples):
                _copy_source(x, first + b, p, window, copies, b * size)
                _copy_target(g, first + b, p, copies, b * size)
            _add_products(copies, offsets, samples * size, stretch * layout.pitch, out)


@jit
def _space_for(g: np.ndarray, x: np.ndarray, window: Window2D) -> Copies:
    """Memory for as many samples as stay in the cache, or for some rows of one."""
    heights, width = g.shape[2:]
    rows = rows_of_a_copy(x, heights, width, window)
    layout = layout_of((rows, width), window)
    phases, size = layout.down * layout.across, layout.rows * layout.pitch
    samples = 1
    if rows == heights:
        samples = max(1, min(x.shape[1], COPY_BYTES // (x.shape[0] * phases * size * x.itemsize)))
    neurons = -(-g.shape[0] // TARGETS) * TARGETS
    # Rows of the target end before those of the source: behind the last there are zeros for what follows.
    source = np.zeros((x.shape[0] * phases * samples + 1) * size, x.dtype)
    return Copies(source, np.zeros(neurons * samples * size, x.dtype), layout, samples, rows)


@jit
def _copy_source(x: np.ndarray, sample: int, p: int, window: Window2D, copies: Copies, begin: int) -> None:
    """What output rows from ``p`` on see of a sample, from ``begin`` on in the stretch of each phase."""
    strides, pads, layout = window.strides, window.pads, copies.layout
    phases, stretch = layout.down * layout.across, copies.samples * layout.rows * layout.pitch
    for j in range(x.shape[0]):
        start = map_start(x, j, sample)
        for phase in range(phases):
            above = p * strides[0] - pads[0] + phase // layout.across
            seen = Seen(above, phase % layout.across - pads[1], strides, 0.0)
            to, grid = (j * phases + phase) * stretch + begin, (layout.rows, layout.pitch)
            copy_grid(x.reshape(-1), start, x.shape[2:], seen, copies.source, to, grid)


@jit
def _copy_target(g: np.ndarray, sample: int, p: int, copies: Copies, begin: int) -> None:
    """The derivatives of a sample in output rows from ``p`` on, zeros between the rows and behind them."""
    layout, width = copies.layout, g.shape[3]
    stretch = copies.samples * layout.rows * layout.pitch
    shape = min(copies.rows, g.shape[2] - p), width
    for i in range(g.shape[0]):
        start, seen = map_start(g, i, sample) + p * width, Seen(0, 0, (1, 1), 0.0)
        to, grid = i * stretch + begin, (layout.rows, layout.pitch)
        copy_grid(g.reshape(-1), start, shape, seen, copies.target, to, grid)


@jit
def _add_products(copies: Copies, offsets: np.ndarray, length: int, stretch: int, out: np.ndarray) -> None:
    """out += all scalar products of ``length`` numbers; those of a neuron of the target begin ``stretch``
    numbers behind those of the one before."""
    sums = np.empty((TARGETS, TAPS), out.dtype)
    for i in range(0, out.shape[0], TARGETS):
        for k in range(0, out.shape[1], TAPS):
            _multiply(copies.target[i * stretch :], stretch, copies.source, offsets[k:], length, sums)
            for r in range(min(TARGETS, out.shape[0] - i)):
                for t in range(min(TAPS, out.shape[1] - k)):
                    out[i + r, k + t] += sums[r, t]


@jit
def _multiply(
    target: np.ndarray, stretch: int, source: np.ndarray, offsets: np.ndarray, length: int, sums: np.ndarray
) -> None:
    """sums[r, t] = target[r · stretch : …] · source[offsets[t] : …], each of ``length`` numbers.

    Written out, so that all sums are in registers.
    """
    g0, g1 = target[:length], target[stretch : stretch + length]
    g2, g3 = target[2 * stretch : 2 * stretch + length], target[3 * stretch : 3 * stretch + length]
    x0, x1, x2 = (source[offsets[0] :], source[offsets[1] :], source[offsets[2] :])
    s00 = s01 = s02 = s10 = s11 = s12 = s20 = s21 = s22 = s30 = s31 = s32 = source.dtype.type(0)
    for p in range(length):
        seen0, seen1, seen2 = x0[p], x1[p], x2[p]
        a, b, c, d = g0[p], g1[p], g2[p], g3[p]
        s00, s01, s02 = s00 + a * seen0, s01 + a * seen1, s02 + a * seen2
        s10, s11, s12 = s10 + b * seen0, s11 + b * seen1, s12 + b * seen2
        s20, s21, s22 = s20 + c * seen0, s21 + c * seen1, s22 + c * seen2
        s30, s31, s32 = s30 + d * seen0, s31 + d * seen1, s32 + d * seen2
    sums[0, 0], sums[0, 1], sums[0, 2] = s00, s01, s02
    sums[1, 0], sums[1, 1], sums[1, 2] = s10, s11, s12
    sums[2, 0], sums[2, 1], sums[2, 2] = s20, s21, s22
    sums[3, 0], sums[3, 1], sums[3, 2] = s30, s31, s32


@kernel(arguments={"g": _MAPS, "x": _MAPS, "y": _MAPS, "window": WINDOW, "out": _MAPS}, need=Need.NONE)
def max_pool_gradient(g: np.ndarray, x: np.ndarray, y: np.ndarray, window: Window2D, out: np.ndarray) -> None:
    """out = the derivatives by x: of equal numbers in a window, the first is the largest.

    Args:
        g: derivatives by y, (n, batch, OH, OW).
        x: what was pooled, (n, batch, H, W).
        y: what ``max_pool`` made of it.
        window: of the pool.
        out: of the shape of x, overwritten.
    """
    kernel, strides, dilations, pads = window
    out[:] = 0
    for j, b, p, q in np.ndindex(g.shape):
        first = _first_equal(x[j, b], y[j, b, p, q], (p, q), window)
        if first >= 0:
            u, v = first // kernel[1], first % kernel[1]
            row = p * strides[0] + u * dilations[0] - pads[0]
            out[j, b, row, q * strides[1] + v * dilations[1] - pads[1]] += g[j, b, p, q]


@jit
def _first_equal(values: np.ndarray, wanted: float, place: tuple[int, int], window: Window2D) -> int:
    """The first entry of a window that meets this number inside a map; -1: there is none, as with NaN."""
    (above, before), (height, width) = window.pads, values.shape
    for u in range(window.kernel[0]):
        row = place[0] * window.strides[0] + u * window.dilations[0] - above
        if 0 <= row < height:
            for v in range(window.kernel[1]):
                column = place[1] * window.strides[1] + v * window.dilations[1] - before
                if 0 <= column < width and values[row, column] == wanted:
                    return u * window.kernel[1] + v
    return -1


@kernel(arguments={"g": Array(REAL, 1), "x": Array(REAL, 1), "out": Array(REAL, 1)}, need=Need.NONE)
def relu_gradient(g: np.ndarray, x: np.ndarray, out: np.ndarray) -> None:
    """out = g where x > 0, else 0; all of one size."""
    zero = g.dtype.type(0)
    for t in range(x.size):
        out[t] = g[t] if x[t] > 0 else zero
