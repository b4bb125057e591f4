"""Windows of one neuron's own map: pooling and depthwise filters.

Maps, geometry and copies are those of ``windows``.  An output shape larger than what fits into the
padded map is allowed: windows are cut at the border.
"""

from __future__ import annotations

import numpy as np

from ..arguments import EPILOGUE, REAL, WINDOW, Array, Epilogue, Value, Window2D
from ..jit import jit
from ..registry import Need, kernel
from .activations import activate_in_place
from .windows import Layout, Seen, copy_map, find_offsets, inside, layout_of, map_start, size_of

_MAPS = Array(REAL, 4)


@kernel(arguments={"x": _MAPS, "window": WINDOW, "out": _MAPS}, need=Need.MAPS)
def max_pool(x: np.ndarray, window: Window2D, out: np.ndarray) -> None:
    """out = the largest number in each window, NaN if there is one; −inf if the window is all padding.

    Args:
        x: (n, batch, H, W).
        window: of the pool.
        out: (n, batch, OH, OW).
    """
    border = Seen(-window.pads[0], -window.pads[1], window.strides, -np.inf)
    sees_all = _sees_all(x, window, out)
    layout, copy, offsets, result = _space_for(out, window)
    seen = result[: result.size - layout.pitch + out.shape[3]]
    for j in range(x.shape[0]):
        for b in range(x.shape[1]):
            if sees_all:
                out[j, b, 0, 0] = _largest(x[j, b].reshape(-1))
                continue
            copy_map(x.reshape(-1), map_start(x, j, b), x.shape[2:], border, layout, copy, 0)
            seen[:] = -np.inf
            for offset in offsets:
                _raise(seen, copy[offset:])
            _take_rows(result.reshape(out.shape[2], layout.pitch), out[j, b])


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
    sees_all = _sees_all(x, window, out) and max(counted) == 0
    weights = np.ones((1, window.kernel[0], window.kernel[1]), x.dtype)
    zero = np.zeros((1, 1, 1, 1), x.dtype)
    down = _counts(out.shape[2], window, 0, -counted[0], x.shape[2] + counted[2])
    across = _counts(out.shape[3], window, 1, -counted[1], x.shape[3] + counted[3])
    if not sees_all:
        _filter(weights, x, window, zero, out)
    for j in range(x.shape[0]):
        for b in range(x.shape[1]):
            if sees_all:
                out[j, b, 0, 0] = x[j, b].sum()
            for p in range(out.shape[2]):
                row = out[j, b, p]
                for q in range(row.size):
                    row[q] /= x.dtype.type(down[p] * across[q])


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
    _filter(weights, x, window, start, out)
    activate_in_place(out.reshape(-1), epilogue.code, epilogue.alpha, epilogue.beta)


@jit
def _filter(weights: np.ndarray, x: np.ndarray, window: Window2D, start: np.ndarray, out: np.ndarray) -> None:
    """out = start + w * x; weights and start with one filter and number for all neurons, or for each."""
    border = Seen(-window.pads[0], -window.pads[1], window.strides, 0.0)
    layout, copy, offsets, result = _space_for(out, window)
    seen = result[: result.size - layout.pitch + out.shape[3]]
    for j in range(x.shape[0]):
        taps = weights[j % weights.shape[0]].reshape(-1)
        for b in range(x.shape[1]):
            copy_map(x.reshape(-1), map_start(x, j, b), x.shape[2:], border, layout, copy, 0)
            seen[:] = start[j % start.shape[0], 0, 0, 0]
            _add_taps(seen, taps, offsets, copy)
            _take_rows(result.reshape(out.shape[2], layout.pitch), out[j, b])


@jit
def _space_for(out: np.ndarray, window: Window2D) -> tuple[Layout, np.ndarray, np.ndarray, np.ndarray]:
    """Memory for one map at a time: the layout of its copy, the copy, the offsets in it, and the results."""
    layout = layout_of(out.shape[2:], window)
    offsets = np.empty(window.kernel[0] * window.kernel[1], np.int64)
    find_offsets(window, layout, offsets)
    return (
        layout,
        np.empty(size_of(layout), out.dtype),
        offsets,
        np.empty(out.shape[2] * layout.pitch, out.dtype),
    )


@jit
def _sees_all(x: np.ndarray, window: Window2D, out: np.ndarray) -> bool:
    """Say if there is one window only, and that is the whole map."""
    kernel, dilations, pads = window.kernel, window.dilations, window.pads
    is_single = out.shape[2] == out.shape[3] == 1 and dilations[0] == dilations[1] == 1
    return is_single and kernel[0] - pads[0] >= x.shape[2] and kernel[1] - pads[1] >= x.shape[3]


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


@jit
def _raise(target: np.ndarray, seen: np.ndarray) -> None:
    for t in range(target.size):
        target[t] = _larger(seen[t], target[t])


@jit
def _add_taps(target: np.ndarray, taps: np.ndarray, offsets: np.ndarray, copy: np.ndarray) -> None:
    """target += the copy at each offset times its tap; three at a time, to touch target less often."""
    end = taps.size - taps.size % 3
    for k in range(0, end, 3):
        w0, w1, w2 = taps[k], taps[k + 1], taps[k + 2]
        x0, x1, x2 = copy[offsets[k] :], copy[offsets[k + 1] :], copy[offsets[k + 2] :]
        for t in range(target.size):
            target[t] += w0 * x0[t] + w1 * x1[t] + w2 * x2[t]
    for k in range(end, taps.size):
        w0, x0 = taps[k], copy[offsets[k] :]
        for t in range(target.size):
            target[t] += w0 * x0[t]


@jit
def _take_rows(rows: np.ndarray, out: np.ndarray) -> None:
    """out = the first columns of rows."""
    for p in range(out.shape[0]):
        row, target = rows[p], out[p]
        for q in range(target.size):
            target[q] = row[q]
