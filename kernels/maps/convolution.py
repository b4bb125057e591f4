"""Direct convolution: no patch matrix, only a padded copy (see ``windows``) of what a few output rows see."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from ..arguments import EPILOGUE, REAL, WINDOW, Array, Epilogue, Pair, Window2D
from ..jit import jit
from ..llvm.panel import PANEL_NEURONS, PANEL_VECTORS, lanes, multiply_panel
from ..products.shares import row_shares
from ..registry import Need, kernel, thread_variant
from .activations import activate_in_place
from .windows import Layout, copy_map, find_offsets, layout_of, size_of

# The padded copy stays in the second cache, with space beside it for weights.
COPY_BYTES = 1 << 18

_MAPS = Array(REAL, 4)


class RowBlock(NamedTuple):
    """Rows finished at a time: of a panel of neurons, so many output rows of a sample from ``p`` on."""

    panel: int
    sample: int
    p: int
    rows: int


def pack_weights(W: np.ndarray) -> np.ndarray:
    """Weights (m, K = n · kh · kw) as ``convolve_direct`` reads them: (panels, K, neurons of a panel)."""
    m, K = W.shape
    padded = np.zeros((-(-m // PANEL_NEURONS) * PANEL_NEURONS, K), W.dtype)
    padded[:m] = W
    panels = padded.reshape(len(padded) // PANEL_NEURONS, PANEL_NEURONS, K)
    return np.ascontiguousarray(panels.transpose(0, 2, 1))


@kernel(
    arguments={
        "weights": Array(REAL, 3),
        "x": _MAPS,
        "window": WINDOW,
        "start": _MAPS,
        "out": _MAPS,
        "epilogue": EPILOGUE,
    },
    need=Need.MAPS,
)
def convolve_direct(
    weights: np.ndarray,
    x: np.ndarray,
    window: Window2D,
    start: np.ndarray,
    out: np.ndarray,
    epilogue: Epilogue,
) -> None:
    """out = act(start + W * x), the convolution of every sample.

    Args:
        weights: of ``pack_weights``.
        x: (n, batch, H, W), not overlapping out.
        window: of the convolution.
        start: (m, 1, 1, 1), a bias, or ``out`` itself.
        out: (m, batch, OH, OW).
        epilogue: activation.
    """
    if out.size == 0:
        return
    heights, width = out.shape[2:]
    strides, pads = window.strides, window.pads
    rows = _rows_of_a_block(x, heights, width, window)
    largest, slack = layout_of((rows, width), window), PANEL_VECTORS * lanes(x.dtype)
    # Zeros: what vectors see beyond the last position must be harmless.
    copy = np.zeros(x.shape[0] * size_of(largest) + slack, x.dtype)
    sums = np.empty((PANEL_NEURONS, rows * largest.pitch + slack), x.dtype)
    offsets = np.empty(weights.shape[1], np.int64)
    for b in range(x.shape[1]):
        for p in range(0, heights, rows):
            height = min(rows, heights - p)
            layout = layout_of((height, width), window)
            find_offsets(window, layout, offsets)
            _copy_sample(x, b, p * strides[0] - pads[0], -pads[1], strides, layout, copy)
            for panel in range(weights.shape[0]):
                _multiply_rows(weights[panel], copy, offsets, (height - 1) * layout.pitch + width, sums)
                _finish_rows(sums, layout.pitch, RowBlock(panel, b, p, height), start, out, epilogue)


@jit
def _rows_of_a_block(x: np.ndarray, heights: int, width: int, window: Window2D) -> int:
    """Output rows to compute from one copy, so that all blocks have about one size."""
    one_row = layout_of((1, width), window)
    row_bytes = max(1, x.shape[0] * one_row.down * one_row.across * one_row.pitch * x.itemsize)
    limit = max(1, COPY_BYTES // row_bytes - (one_row.rows - 1))
    return -(-heights // -(-heights // limit))


@jit
def _copy_sample(
    x: np.ndarray,
    b: int,
    above: int,
    before: int,
    strides: Pair,
    layout: Layout,
    copy: np.ndarray,
) -> None:
    size = size_of(layout)
    for j in range(x.shape[0]):
        copy_map(x[j, b], above, before, strides, 0.0, layout, copy[j * size : (j + 1) * size])


@jit
def _multiply_rows(
    weights: np.ndarray, copy: np.ndarray, offsets: np.ndarray, count: int, sums: np.ndarray
) -> None:
    """sums of one panel of neurons at the first ``count`` positions, or a few more."""
    lane = lanes(copy.dtype)
    for position in range(0, count, PANEL_VECTORS * lane):
        vectors = min(PANEL_VECTORS, -(-(count - position) // lane))
        multiply_panel(vectors, weights, copy, offsets, position, sums)


@jit
def _finish_rows(
    sums: np.ndarray,
    pitch: int,
    block: RowBlock,
    start: np.ndarray,
    out: np.ndarray,
    epilogue: Epilogue,
) -> None:
    """out = act(start + sums) for a block, whose rows are ``pitch`` numbers apart in the sums."""
    panel, b, p, rows = block
    onto = start.shape[1:] == out.shape[1:]
    for i in range(panel * PANEL_NEURONS, min(out.shape[0], (panel + 1) * PANEL_NEURONS)):
        total = sums[i - panel * PANEL_NEURONS]
        for r in range(rows):
            target, product = out[i, b, p + r], total[r * pitch : r * pitch + out.shape[3]]
            if onto:
                initial = start[i, b, p + r]
                for t in range(target.size):
                    target[t] = initial[t] + product[t]
            else:
                bias = start[i, 0, 0, 0]
                for t in range(target.size):
                    target[t] = bias + product[t]
        activate_in_place(out[i, b, p : p + rows], epilogue.code, epilogue.alpha, epilogue.beta)


def _share_panels(
    threads: int,
    weights: np.ndarray,
    x: np.ndarray,
    window: Window2D,
    start: np.ndarray,
    out: np.ndarray,
    epilogue: Epilogue,
) -> tuple[int, tuple]:
    positions = out.size // max(1, len(out))
    return weights.size * positions, (row_shares(np.arange(len(weights) + 1), threads),)


@thread_variant(convolve_direct, share=_share_panels)
def convolve_threads(
    weights: np.ndarray,
    x: np.ndarray,
    window: Window2D,
    start: np.ndarray,
    out: np.ndarray,
    epilogue: Epilogue,
    shares: np.ndarray,
) -> None:
    """``convolve_direct`` by several threads, each with its ``shares`` of the panels of neurons."""
    # Threads are handed the parts of tuples: Numba refuses tuples inside tuples there.
    (kernel, strides, dilations, pads), (code, alpha, beta) = window, epilogue
    for t in numba.prange(len(shares) - 1):
        first, last = shares[t], shares[t + 1]
        rows = slice(first * PANEL_NEURONS, min(last * PANEL_NEURONS, len(out)))
        own_panels = weights[first:last]
        own_window = Window2D(kernel, strides, dilations, pads)
        convolve_direct(own_panels, x, own_window, start[rows], out[rows], Epilogue(code, alpha, beta))
