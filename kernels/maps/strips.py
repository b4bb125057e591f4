"""Sums of a strip of positions of a convolution, by two ways, and how they get into the output.

A vector of the processor holds positions, for maps that are much wider than it, or neurons of the target, for
narrow maps.  Sums are added up for some maps after the others, so few at a time that what the strip sees of
them stays in the nearest cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..jit import jit
from ..llvm.channels import multiply_channels
from ..llvm.map_rows import add_row
from ..llvm.panel import PANEL_VECTORS, multiply_panel
from ..llvm.samples import transpose_samples
from ..llvm.stored import Stored, numbers_of
from ..llvm.tiles import BATCH_PANELS, MOST_SAMPLES
from ..llvm.vectors import lanes
from .windows import Layout, map_start


class Copy(NamedTuple):
    """The padded copy of some output rows of a sample, and where it is.

    Attributes:
        maps: the numbers, and a few more, which are finite.
        layout: of the copy of each map.
        offsets: from a position to what it sees there with each tap.
        rows: output rows that it is for, at most.
        taps: that are added up at a time.
    """

    maps: np.ndarray
    layout: Layout
    offsets: np.ndarray
    rows: int
    taps: int


class Rows(NamedTuple):
    """Output rows that a copy is for: so many of a sample from ``p`` on, so wide from column ``q`` on."""

    sample: int
    p: int
    height: int
    q: int
    width: int


class Strip(NamedTuple):
    """Positions, or tiles of positions, whose sums are added up together: so many from ``first`` on."""

    first: int
    length: int


@jit
def multiply_positions(weights: Stored, copy: Copy, strip: Strip, sums: np.ndarray) -> None:
    """sums[panel, r, t] = what neuron r of each panel is at position ``strip.first`` + t."""
    lane = lanes(copy.maps.dtype)
    for k in range(0, max(1, len(copy.offsets)), copy.taps):  # no taps: sums are 0
        offsets = copy.offsets[k : k + copy.taps]
        for panel in range(len(weights.panels)):
            taps = numbers_of(weights, panel, 1, k, len(offsets))[0]
            for t in range(0, strip.length, PANEL_VECTORS * lane):
                vectors = min(PANEL_VECTORS, -(-(strip.length - t) // lane))
                multiply_panel(vectors, taps, copy.maps, offsets, strip.first + t, k > 0, sums[panel], t)


@jit
def take_positions(
    sums: np.ndarray, strip: Strip, rows: Rows, pitch: int, start: np.ndarray, out: np.ndarray
) -> None:
    """out = start + sums, at the positions of a strip that are in rows of the output."""
    onto, end = start.shape[1:] == out.shape[1:], strip.first + strip.length
    for i in range(out.shape[0]):
        base = map_start(out, i, rows.sample) + rows.p * out.shape[3] + rows.q
        product = i * sums.shape[2] - strip.first
        for r in range(strip.first // pitch, min(rows.height, -(-end // pitch))):
            left, right = max(strip.first, r * pitch), min(end, r * pitch + rows.width)
            to = base + left - r * (pitch - out.shape[3])
            add_row(start, to if onto else i, onto, sums, product + left, out, to, right - left)


@jit
def multiply_tiles(
    weights: Stored, copy: Copy, strip: Strip, width: int, tile: int, sums: np.ndarray
) -> None:
    """sums[t, panel, c, r] = what neuron r of each panel is at position c of tile ``strip.first`` + t."""
    size, panels = MOST_SAMPLES * lanes(copy.maps.dtype), len(weights.panels)
    across = -(-width // tile)
    for k in range(0, max(1, len(copy.offsets)), copy.taps):  # no taps: sums are 0
        offsets = copy.offsets[k : k + copy.taps]
        for panel in range(0, panels, BATCH_PANELS):
            shape = min(BATCH_PANELS, panels - panel), tile
            taps = numbers_of(weights, panel, shape[0], k, len(offsets))
            p, q = strip.first // across, strip.first % across
            for t in range(strip.length):
                position, to = p * copy.layout.pitch + q * tile, (t * panels + panel) * size
                multiply_channels(shape, taps, copy.maps, offsets, position, k > 0, sums, to)
                p, q = (p, q + 1) if q + 1 < across else (p + 1, 0)


@jit
def take_tiles(
    sums: np.ndarray, panels: int, strip: Strip, rows: Rows, tile: int, start: np.ndarray, out: np.ndarray
) -> None:
    """out = start + sums, of the tiles of a strip."""
    onto, lane = start.shape[1:] == out.shape[1:], lanes(sums.dtype)
    across, maps = -(-rows.width // tile), out.shape[1] * out.shape[2] * out.shape[3]
    for t in range(strip.length):
        p, q = (strip.first + t) // across, (strip.first + t) % across * tile
        count = min(tile, rows.width - q)
        place = map_start(out, 0, rows.sample) + (rows.p + p) * out.shape[3] + rows.q + q
        for panel in range(panels):
            first = (t * panels + panel) * MOST_SAMPLES * lane
            transpose_samples(sums, first)
            for r in range(min(lane, out.shape[0] - panel * lane)):
                i = panel * lane + r
                to = i * maps + place
                add_row(start, to if onto else i, onto, sums, first + r * MOST_SAMPLES, out, to, count)
