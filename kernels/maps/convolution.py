"""Direct convolution: no patch matrix, only a padded copy (see ``windows``) of what a few output rows see.

Strips of positions of the output are computed one after the other, by one of the two ways of ``strips``.
"""

from __future__ import annotations

import numba
import numpy as np

from ..arguments import (
    EPILOGUE,
    INTEGER,
    REAL,
    REGION,
    STORED,
    WINDOW,
    Array,
    Epilogue,
    Pair,
    Region,
    Window2D,
)
from ..jit import jit
from ..llvm.channels import width_for_row
from ..llvm.panel import PANEL_NEURONS, PANEL_VECTORS
from ..llvm.stored import Stored
from ..llvm.tiles import BATCH_PANELS, MOST_SAMPLES
from ..llvm.vectors import lanes
from ..products.shares import row_shares
from ..registry import Need, kernel, thread_variant
from .activations import activate_in_place
from .strips import Copy, Rows, Strip, multiply_positions, multiply_tiles, take_positions, take_tiles
from .windows import Seen, copy_map, find_offsets, layout_of, map_start, rows_of_a_copy, size_of

# What a strip sees of the maps of some taps stays in the nearest cache, with space beside it for weights.
NEAR_BYTES = 1 << 14
# Fewer taps are not worth that sums are read and written for them.
FEWEST_TAPS = 96
# Of a strip: what panels see at once, side by side, or tiles of positions.
STRIP_PANELS, STRIP_TILES = 4, 16
# Time of vectors of neurons over that of as many vectors of positions: a map's number meets fewer of them.
CHANNELS_COST = 1.25

_MAPS = Array(REAL, 4)


def convolution_rows(dtype: np.dtype, by_channels: bool) -> int:
    """R, the neurons of a panel, as ``convolve_direct`` takes it, for sums in ``dtype``."""
    return lanes(dtype) if by_channels else PANEL_NEURONS


def channels_are_faster(neurons: int, shape: Pair, window: Window2D, dtype: np.dtype) -> bool:
    """Say if vectors of neurons compute so much less for nothing that they take less time.

    Args:
        neurons: of the target.
        shape: of its maps.
        window: of the convolution.
        dtype: of numbers.
    """
    lane, width = lanes(dtype), width_for_row(shape[1])
    by_channels = _filled(neurons, lane) * shape[0] * _filled(shape[1], width)
    positions = (shape[0] - 1) * layout_of(shape, window).pitch + shape[1]
    return CHANNELS_COST * by_channels < _filled(neurons, PANEL_NEURONS) * _filled(positions, lane)


def _filled(count: int, size: int) -> int:
    return -(-count // size) * size


@kernel(
    arguments={
        "panels": Array(STORED, 3),
        "scales": Array(REAL, 1),
        "by_channels": INTEGER,
        "x": _MAPS,
        "window": WINDOW,
        "region": REGION,
        "start": _MAPS,
        "out": _MAPS,
        "epilogue": EPILOGUE,
    },
    need=Need.MAPS,
)
def convolve_direct(
    panels: np.ndarray,
    scales: np.ndarray,
    by_channels: int,
    x: np.ndarray,
    window: Window2D,
    region: Region,
    start: np.ndarray,
    out: np.ndarray,
    epilogue: Epilogue,
) -> None:
    """out = act(start + W * x), the convolution of every sample, in a region of its maps.

    Args:
        panels: W, (m, K = n · kh · kw), by ``pack_panels`` with ``convolution_rows``.
        scales: of the rows of W, (all rows of the panels,), of weights in int8; else (0,).
        by_channels: 1: vectors are of neurons; 0: of positions.
        x: (n, batch, H, W), not overlapping out.
        window: of the convolution.
        region: of the maps of ``out``; nothing else of them is written.
        start: (m, 1, 1, 1), a bias, or ``out`` itself.
        out: (m, batch, OH, OW).
        epilogue: activation.
    """
    if out.size == 0:
        return
    (top, left), (bottom, right) = region.first, region.end
    width, count, lane = right - left, len(panels), lanes(x.dtype)
    tile = width_for_row(width)
    longest = STRIP_TILES * tile if by_channels else STRIP_PANELS * PANEL_VECTORS * lane
    copy = _space_for(x, (bottom - top, width), window, longest)
    near = np.empty(_near_size(panels, x, copy, BATCH_PANELS if by_channels else 1), x.dtype)
    weights = Stored(panels, scales, near)
    sums = np.empty((count, PANEL_NEURONS, 0 if by_channels else longest), x.dtype)
    tiles = np.empty(STRIP_TILES * count * MOST_SAMPLES * lane if by_channels else 0, x.dtype)
    for b in range(x.shape[1]):
        for p in range(top, bottom, copy.rows):
            rows = Rows(b, p, min(copy.rows, bottom - p), left, width)
            _copy_sample(x, window, rows, copy)
            if by_channels:
                end = rows.height * -(-width // tile)
                for first in range(0, end, STRIP_TILES):
                    strip = Strip(first, min(STRIP_TILES, end - first))
                    multiply_tiles(weights, copy, strip, width, tile, tiles)
                    take_tiles(tiles, count, strip, rows, tile, start, out)
            else:
                end = (rows.height - 1) * copy.layout.pitch + width
                for first in range(0, end, longest):
                    strip = Strip(first, min(longest, end - first))
                    multiply_positions(weights, copy, strip, sums)
                    take_positions(sums, strip, rows, copy.layout.pitch, start, out)
            _activate(out, rows, epilogue)


@jit
def _activate(out: np.ndarray, rows: Rows, epilogue: Epilogue) -> None:
    """Apply the activation where sums are complete: to all columns at once, or row by row."""
    whole = rows.width == out.shape[3]
    count, length = (1, rows.height * rows.width) if whole else (rows.height, rows.width)
    flat = out.reshape(-1)
    for i in range(len(out)):
        begin = map_start(out, i, rows.sample) + rows.p * out.shape[3] + rows.q
        for r in range(count):
            first = begin + r * out.shape[3]
            activate_in_place(flat[first : first + length], epilogue.code, epilogue.alpha, epilogue.beta)


@jit
def _space_for(x: np.ndarray, shape: Pair, window: Window2D, longest: int) -> Copy:
    """Memory for the copy of some output rows at a time, for strips of ``longest`` positions.

    Args:
        x: the maps.
        shape: of the region of the output.
        window, longest: see ``convolve_direct``.
    """
    heights, width = shape
    kernel = window.kernel
    rows = rows_of_a_copy(x, heights, width, window)
    layout = layout_of((rows, width), window)
    maps = np.empty(x.shape[0] * size_of(layout) + longest, x.dtype)
    maps[maps.size - longest :] = 0  # what vectors see beyond the last position must be harmless
    offsets = np.empty(x.shape[0] * kernel[0] * kernel[1], np.int64)
    find_offsets(window, layout, offsets)
    seen = min(longest + (kernel[0] - 1) * window.dilations[0] * layout.pitch, size_of(layout))
    taps = max(FEWEST_TAPS, NEAR_BYTES // (seen * x.itemsize) * kernel[0] * kernel[1])
    return Copy(maps, layout, offsets, rows, taps)


@jit
def _near_size(panels: np.ndarray, x: np.ndarray, copy: Copy, together: int) -> int:
    """Numbers of weights that are expanded at a time, those of so many panels ``together``."""
    is_expanded = panels.itemsize < x.itemsize
    return together * min(copy.taps, panels.shape[1]) * panels.shape[2] if is_expanded else 0


@jit
def _copy_sample(x: np.ndarray, window: Window2D, rows: Rows, copy: Copy) -> None:
    strides, pads, size = window.strides, window.pads, size_of(copy.layout)
    seen = Seen(rows.p * strides[0] - pads[0], rows.q * strides[1] - pads[1], strides, 0.0)
    for j in range(x.shape[0]):
        start = map_start(x, j, rows.sample)
        copy_map(x.reshape(-1), start, x.shape[2:], seen, copy.layout, copy.maps, j * size)


def _share_panels(
    threads: int,
    panels: np.ndarray,
    scales: np.ndarray,
    by_channels: int,
    x: np.ndarray,
    window: Window2D,
    region: Region,
    start: np.ndarray,
    out: np.ndarray,
    epilogue: Epilogue,
) -> tuple[int, tuple]:
    (top, left), (bottom, right) = region
    positions = x.shape[1] * (bottom - top) * (right - left)
    return panels.size * positions, (row_shares(np.arange(len(panels) + 1), threads),)


@thread_variant(convolve_direct, share=_share_panels)
def convolve_threads(
    panels: np.ndarray,
    scales: np.ndarray,
    by_channels: int,
    x: np.ndarray,
    window: Window2D,
    region: Region,
    start: np.ndarray,
    out: np.ndarray,
    epilogue: Epilogue,
    shares: np.ndarray,
) -> None:
    """``convolve_direct`` by several threads, each with its ``shares`` of the panels of neurons."""
    # Threads are handed the parts of tuples: Numba refuses tuples inside tuples there.
    (kernel, strides, dilations, pads), (code, alpha, beta) = window, epilogue
    begin, end = region
    R = panels.shape[2]
    for t in numba.prange(len(shares) - 1):
        first, last = shares[t], shares[t + 1]
        rows = slice(first * R, min(last * R, len(out)))
        own_panels, own_scales = panels[first:last], scales[first * R : last * R]
        own_window = Window2D(kernel, strides, dilations, pads)
        own_region, own_epilogue = Region(begin, end), Epilogue(code, alpha, beta)
        own_start, own_out = start[rows], out[rows]
        convolve_direct(
            own_panels,
            own_scales,
            by_channels,
            x,
            own_window,
            own_region,
            own_start,
            own_out,
            own_epilogue,
        )
