"""Windows of one neuron's own map: pooling and depthwise filters.

Maps and geometry are those of ``windows``.  An output shape larger than what fits into the padded map is
allowed: windows are cut at the border.
"""

from __future__ import annotations

import numpy as np

from ..arguments import EPILOGUE, REAL, WINDOW, Array, Epilogue, Value, Window2D
from ..jit import jit
from ..llvm.map_windows import filter_maps, largest_of_maps, mean_of_maps
from ..registry import Need, kernel
from ..sums import total
from .activations import activate_in_place
from .views import view_of, with_long_rows
from .windows import inside

# Outputs of so many bytes get their activation before they leave the second cache.
_FINISHED_BYTES = 1 << 16

_MAPS = Array(REAL, 4)


@kernel(arguments={"x": _MAPS, "window": WINDOW, "out": _MAPS}, need=Need.MAPS)
def max_pool(x: np.ndarray, window: Window2D, out: np.ndarray) -> None:
    """out = the largest number in each window, NaN if there is one; −inf if the window is all padding.

    Args:
        x: (n, batch, H, W).
        window: of the pool.
        out: (n, batch, OH, OW).
    """
    if _sees_all(x, window, out):
        values, results = _each_map(x, out)
        for m in range(results.size):
            results[m] = _largest(values[m])
    else:
        x, window, out = with_long_rows(x, window, out)
        largest_of_maps(view_of(x, window, -np.inf, out), (0, x.shape[0] * x.shape[1]), x, out)


@kernel(
    arguments={"x": _MAPS, "window": WINDOW, "counted": Value((0, 0, 0, 0)), "out": _MAPS}, need=Need.MAPS
)
def average_pool(
    x: np.ndarray, window: Window2D, counted: tuple[int, int, int, int], out: np.ndarray
) -> None:
    """out = the mean of each window.

    Args:
        x, window: as for ``max_pool``.
        counted: padding that counts as zeros that are averaged: rows before, columns before, rows
            after, columns after the map.  All zero: windows are averaged over the map only.
        out: (n, batch, OH, OW).
    """
    down = _counts(out.shape[2], window, 0, -counted[0], x.shape[2] + counted[2])
    across = _counts(out.shape[3], window, 1, -counted[1], x.shape[3] + counted[3])
    if _sees_all(x, window, out):
        share = x.dtype.type(1) / x.dtype.type(down[0] * across[0])
        values, results = _each_map(x, out)
        for m in range(results.size):
            results[m] = total(values[m]) * share
    else:
        x, window, out = with_long_rows(x, window, out)
        # Where samples have become rows, they have equal shares.
        times = out.shape[2] * out.shape[3] // (down.size * across.size)
        shares = np.empty((times, down.size, across.size), x.dtype)
        for p in range(down.size):
            for q in range(across.size):
                shares[:, p, q] = x.dtype.type(1) / x.dtype.type(down[p] * across[q])
        mean_of_maps(view_of(x, window, 0.0, out), (0, x.shape[0] * x.shape[1]), shares, x, out)


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
def depthwise(
    weights: np.ndarray,
    x: np.ndarray,
    window: Window2D,
    start: np.ndarray,
    out: np.ndarray,
    epilogue: Epilogue,
) -> None:
    """out = act(start + w * x), each neuron's map filtered on its own.

    Args:
        weights: (n, kh, kw).
        x, window: as for ``max_pool``.
        start: (n, 1, 1, 1), a bias.
        out: (n, batch, OH, OW).
        epilogue: activation.
    """
    x, window, out = with_long_rows(x, window, out)
    view, flat = view_of(x, window, 0.0, out), out.reshape(-1)
    maps, size = x.shape[0] * x.shape[1], out.shape[2] * out.shape[3]
    together = 1 + _FINISHED_BYTES // (1 + size * out.itemsize)
    for first in range(0, maps, together):
        end = min(maps, first + together)
        filter_maps(view, (first, end), weights, start, x, out)
        activate_in_place(flat[first * size : end * size], epilogue.code, epilogue.alpha, epilogue.beta)


@jit
def _sees_all(x: np.ndarray, window: Window2D, out: np.ndarray) -> bool:
    """Say if there is one window only, and that is the whole map."""
    kernel, dilations, pads = window.kernel, window.dilations, window.pads
    is_single = out.shape[2] == out.shape[3] == 1 and dilations[0] == dilations[1] == 1
    return is_single and kernel[0] - pads[0] >= x.shape[2] and kernel[1] - pads[1] >= x.shape[3]


@jit
def _each_map(x: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of each map, and its only output."""
    maps = x.shape[0] * x.shape[1]
    return x.reshape(maps, x.shape[2] * x.shape[3]), out.reshape(maps)


@jit
def _counts(count: int, window: Window2D, axis: int, low: int, high: int) -> np.ndarray:
    """The entries of each of ``count`` windows that lie within low .. high − 1, along one axis."""
    kernel, stride = window.kernel[axis], window.strides[axis]
    dilation, pad = window.dilations[axis], window.pads[axis]
    counts = np.empty(count, np.int64)
    for p in range(count):
        first, end = inside(p * stride - pad, dilation, kernel, low, high)
        counts[p] = end - first
    return counts


@jit
def _largest(values: np.ndarray) -> float:
    """Four at a time, which hides the latency of comparing."""
    first = second = third = fourth = values.dtype.type(-np.inf)
    end = values.size - values.size % 4
    for t in range(0, end, 4):
        first = _larger(values[t], first)
        second = _larger(values[t + 1], second)
        third = _larger(values[t + 2], third)
        fourth = _larger(values[t + 3], fourth)
    for t in range(end, values.size):
        first = _larger(values[t], first)
    return _larger(_larger(first, second), _larger(third, fourth))


@jit
def _larger(value: float, best: float) -> float:
    return value if value > best or value != value else best  # in this form NaN wins, whichever it is
