"""Products with a dense block: ``out = act(start + s W X)``.

One loop serves every batch size and every way to store the weights.  W is packed into panels once, so that
its numbers are read in the order in which they lie in memory; samples come in *slabs* of a few, input
after input.  Few samples are one slab, and W is read as a stream.  Of many, a group of panels meets all slabs
before the next one's turn, in stretches of inputs that stay in the nearest cache, while the next stretch
is fetched: so W comes from memory once, and nobody waits for it.  Of very many, such as the positions of
maps, it meets a *block* of slabs that stays in the second cache, and W comes once for every block.

``start`` is broadcast to out as in NumPy: a bias, or ``out`` itself to add to what is there already.
Arrays are C-contiguous and writable, and shapes are not checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numba
import numpy as np

from ..arguments import EPILOGUE, INTEGER, PAIR, REAL, STORED, Array, Epilogue, Value
from ..jit import in_both, inlined, jit
from ..llvm.samples import add_samples, copy_samples, transpose_samples
from ..llvm.tiles import MOST_SAMPLES, WIDEST, TileWork, multiply_tile, panels_for, width_for
from ..llvm.vectors import CACHE_LINE, VECTOR_BYTES
from ..maps.activations import activate_in_place
from ..registry import kernel, part, thread_variant
from .shares import row_shares

# Inputs at a time, where several slabs need the same weights.
DEPTH = 128
# Where one slab of several samples needs them, so many bytes ahead are fetched, as the processor's own
# fetching ends with a page; unless the weights are so few bytes that they may still be near.
AHEAD, NEAR = 2048, 1 << 21
# Samples of a block, at least, and numbers that they have, about.
BLOCK_SAMPLES, BLOCK_NUMBERS = 256, 1 << 16
# Inputs at a time that are packed, while their cache lines are near.
PACKED_ROWS = 32

_VECTOR, _MATRIX = Array(REAL, 1), Array(REAL, 2)


class Sums(NamedTuple):
    """Sums in a tile, (panels, width, R) from number ``tile`` on.

    They are those of panels from row ``row`` on, and of ``width`` samples from number ``b`` on.
    """

    tile: int
    panels: int
    width: int
    R: int
    row: int
    b: int


def panel_rows(dtype: np.dtype) -> int:
    """R, the rows of a panel, for sums in ``dtype``."""
    return VECTOR_BYTES // dtype.itemsize


def pack_panels(strips: Iterable[np.ndarray], panels: np.ndarray) -> None:
    """W (m, n) as panels.

    Args:
        strips: W, R rows at a time, so that it need not be in memory as a whole: real numbers, or the codes
            that ``tiles`` expands.
        panels: room for them, (ceil(m / R), n, R); R of ``dense`` is ``panel_rows``.
    """
    for panel, rows in zip(panels, strips, strict=True):
        panel[:, : len(rows)] = rows.T
        panel[:, len(rows) :] = 0


def dense_scratch(n: int, batch: int, dtype: np.dtype) -> int:
    """Numbers of scratch memory that ``dense`` needs."""
    return slabs_size(n, batch) + tiles_size(n, batch, panel_rows(dtype))


@in_both
def slabs_size(n: int, batch: int) -> int:
    """Numbers in the slabs of a block of X (n, batch), at most."""
    return n * _slabs_of_a_block(n, batch) * _width(batch, 0)


@in_both
def tiles_size(n: int, batch: int, R: int) -> int:
    """Numbers in the sums of a group of panels of R rows for a block of X (n, batch) or less, at most."""
    width = _width(batch, 0)
    return max(panels_for(1), panels_for(width) * _slabs_of_a_block(n, batch) * width) * R


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that starts on a cache line, which is also the widest vector register."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + size].view(dtype).reshape(shape)


@jit
def pack_slabs(X: np.ndarray, slabs: np.ndarray, first: int, last: int) -> None:
    """The slabs of samples ``first`` to ``last`` - 1, each (n, width), the last of all padded with zeros.

    Args:
        X: (n, batch).
        slabs: room for them, one-dimensional.
        first, last: see above; ``first`` begins a slab.
    """
    n, batch = X.shape
    flat = X.reshape(-1)
    for begin in range(0, n, PACKED_ROWS):
        end = min(begin + PACKED_ROWS, n)
        for b in range(first, last, _slab_step(batch)):
            width, slab = _width(batch, b), (b - first) * n
            for c in range(0, width, MOST_SAMPLES):
                present = batch - b - c
                if present >= MOST_SAMPLES:
                    for k in range(begin, end):
                        copy_samples(flat, k * batch + b + c, slabs, slab + k * width + c)
                else:
                    for k in range(begin, end):
                        for d in range(min(width - c, MOST_SAMPLES)):
                            slabs[slab + k * width + c + d] = X[k, b + c + d] if d < present else 0


@part(
    arguments={
        "tiles": _VECTOR,
        "sums": Value(Sums(*[0] * len(Sums._fields))),
        "scales": _VECTOR,
        "start": _VECTOR,
        "out": _VECTOR,
        "shape": PAIR,
    }
)
def finish_slab(
    tiles: np.ndarray,
    sums: Sums,
    scales: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
    shape: tuple[int, int],
) -> None:
    """``_finish_samples`` for all samples of a tile; a single one has its rows in order already."""
    tile, count, width, R, row, b = sums
    if shape[1] == 1:
        for r in range(min(count * R, shape[0] - row)):
            scale = scales[row + r] if scales.size else out.dtype.type(1)
            out[row + r] = start[row + r] + scale * tiles[tile + r]
        return
    for c in range(0, min(width, shape[1] - b), MOST_SAMPLES):
        part = Sums(tile + c * R, count, width, R, row, b + c)
        _finish_samples(tiles, part, scales, start, out, shape)


@kernel(
    arguments={
        "panels": Array(STORED, 3),
        "scales": _VECTOR,
        "X": _MATRIX,
        "start": _MATRIX,
        "out": _MATRIX,
        "scratch": _VECTOR,
        "in_order": INTEGER,
        "epilogue": EPILOGUE,
    },
    replayed=True,
    parts=(finish_slab, activate_in_place),
)
def dense(
    panels: np.ndarray,
    scales: np.ndarray,
    X: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
    scratch: np.ndarray,
    in_order: int,
    epilogue: Epilogue,
) -> None:
    """out = act(start + scales W X).

    Args:
        panels: W, (m, n), by ``pack_panels``.
        scales: of the rows of W, (m,); (0,): all 1.
        X: (n, batch), neuron-major, not overlapping out.
        start: (m, 1), a bias, or (m, batch), possibly ``out`` itself.
        out: (m, batch).
        scratch: at least ``dense_scratch`` numbers.
        in_order: 1: a sample has the same bits in every batch, as its inputs are added up one by one; 0: a
            batch of one is faster.
        epilogue: activation.
    """
    n, batch = X.shape
    slabs, tiles = scratch if needs_slabs(batch) else X.reshape(-1), scratch[slabs_size(n, batch) :]
    for first in range(0, batch, block_samples(n, batch)):
        last = min(first + block_samples(n, batch), batch)
        if needs_slabs(batch):
            pack_slabs(X, slabs, first, last)
        _multiply_panels(panels, scales, slabs, (first, last), start, out, tiles, in_order, epilogue)


@jit
def multiply_panels(
    panels: np.ndarray,
    scales: np.ndarray,
    slabs: np.ndarray,
    samples: tuple[int, int],
    start: np.ndarray,
    out: np.ndarray,
    tiles: np.ndarray,
    in_order: int,
    epilogue: Epilogue,
) -> None:
    """``dense`` for the samples of a block, in slabs, and for all rows or for those of some panels.

    Args:
        panels, scales, start, out, in_order, epilogue: as of ``dense``.
        slabs: one-dimensional, of ``pack_slabs``, or X itself where it is one slab.
        samples: the first one, and the one behind the last.
        tiles: at least ``tiles_size`` numbers.
    """
    count, n, R = panels.shape
    batch = out.shape[1]
    group, step = panels_for(_width(batch, 0)), _slab_step(batch)
    depth = DEPTH if batch > step else max(n, 1)
    stream = AHEAD // panels.itemsize if panels.size * panels.itemsize > NEAR else 0
    flat_start, flat = start.reshape(-1), out.reshape(-1)
    for first in range(0, count, group):
        size = min(group, count - first)
        for begin in range(0, max(n, 1), depth):
            end = min(begin + depth, n)
            ahead = _ahead(n, begin, end, size) * R if batch > step else stream
            for b in range(samples[0], samples[1], step):
                width, slab = _width(batch, b), b - samples[0]
                tile = slab * size * R
                work = TileWork(size, width, first, begin, end, slab * n, tile, begin > 0, ahead, in_order)
                multiply_tile(work, panels, slabs, tiles)
                if end == n:
                    sums = Sums(tile, size, width, R, first * R, b)
                    finish_slab(tiles, sums, scales, flat_start, flat, out.shape)
        _activate(out, first * R, (first + size) * R, samples, epilogue)


@jit
def _activate(out: np.ndarray, first: int, last: int, samples: tuple[int, int], epilogue: Epilogue) -> None:
    """Activate some samples of the rows from ``first`` to ``last`` - 1, as far as there are such."""
    batch, flat = out.shape[1], out.reshape(-1)
    if samples[1] - samples[0] == batch:
        activate_in_place(out[first:last], epilogue.code, epilogue.alpha, epilogue.beta)
        return
    for i in range(first, min(last, len(out))):
        row = flat[i * batch + samples[0] : i * batch + samples[1]].reshape(1, -1)
        activate_in_place(row, epilogue.code, epilogue.alpha, epilogue.beta)


# To optimise it twice, alone and in ``dense``, would take a second and a half.
_multiply_panels = inlined(multiply_panels)


@jit
def _ahead(n: int, begin: int, end: int, count: int) -> int:
    """Columns from a stretch of ``count`` panels to the next one, perhaps of the panels behind."""
    return (end if end < n else count * n) - begin


@in_both
def _slab_step(batch: int) -> int:
    """Samples in a slab, at most: few come in a single one, so that a panel is read once, as a stream."""
    return WIDEST if batch <= WIDEST else MOST_SAMPLES


@in_both
def _width(batch: int, b: int) -> int:
    """Samples in the slab that begins with number b, padded to what the inner loop knows."""
    return width_for(min(_slab_step(batch), batch - b))


@in_both
def needs_slabs(batch: int) -> bool:
    """Say if X (n, batch) as it is would not be a slab."""
    return _width(batch, 0) != batch


@in_both
def block_samples(n: int, batch: int) -> int:
    """Samples in a block of X (n, batch): all, or those of whole slabs; at least 1."""
    return min(max(1, batch), max(BLOCK_SAMPLES, BLOCK_NUMBERS // max(1, n) // MOST_SAMPLES * MOST_SAMPLES))


@in_both
def _slabs_of_a_block(n: int, batch: int) -> int:
    return -(-block_samples(n, batch) // _slab_step(batch))


@jit
def _finish_samples(
    tiles: np.ndarray,
    sums: Sums,
    scales: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
    shape: tuple[int, int],
) -> None:
    """out = start + scales · sums, for the first ``MOST_SAMPLES`` of the sums, or fewer; columns become rows.

    Start and out, of ``shape``, are flat.
    """
    (rows, batch), (tile, count, width, R, row, b) = shape, sums
    present = min(MOST_SAMPLES, batch - b)
    has_start = start.size == out.size
    for p in range(count):
        panel = tile + p * width * R
        if present == MOST_SAMPLES:
            transpose_samples(tiles, panel)
        for r in range(min(R, rows - row - p * R)):
            i = row + p * R + r
            to = i * batch + b
            begin = to if has_start else i
            scale = scales[i] if scales.size else out.dtype.type(1)
            if present == MOST_SAMPLES:
                add_samples(start, begin, has_start, scale, tiles, panel + r * MOST_SAMPLES, out, to)
            else:
                for c in range(present):
                    first = start[begin + c * has_start]
                    out[to + c] = first + scale * tiles[panel + c * R + r]


def _share_panels(
    threads: int, panels: np.ndarray, scales: np.ndarray, X: np.ndarray, *rest: object
) -> tuple[int, tuple]:
    n, batch = X.shape
    tiles = aligned((threads, tiles_size(n, batch, panels.shape[2])), X.dtype)
    return panels.size * batch, (row_shares(np.arange(len(panels) + 1), threads), tiles)


@thread_variant(dense, share=_share_panels)
def dense_threads(
    panels: np.ndarray,
    scales: np.ndarray,
    X: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
    scratch: np.ndarray,
    in_order: int,
    epilogue: Epilogue,
    shares: np.ndarray,
    tiles: np.ndarray,
) -> None:
    """``dense`` by several threads.

    Args:
        panels, scales, X, start, out, scratch, in_order, epilogue: as of ``dense``.
        shares: of the panels.
        tiles: (threads, at least ``tiles_size``).
    """
    (n, batch), threads, R = X.shape, len(tiles), panels.shape[2]
    code, alpha, beta = epilogue  # threads are handed its parts
    block, step = block_samples(n, batch), _slab_step(batch)
    slabs = scratch if needs_slabs(batch) else X.reshape(-1)
    for begin in range(0, batch, block):
        end = min(begin + block, batch)
        count = -(-(end - begin) // step)
        if needs_slabs(batch):
            for t in numba.prange(threads):
                own, behind = count * t // threads * step, count * (t + 1) // threads * step
                pack_slabs(X, slabs[own * n :], begin + own, min(begin + behind, end))
        for t in numba.prange(threads):
            first, last = shares[t], shares[t + 1]
            rows = slice(first * R, min(last * R, len(out)))
            own_panels, own_epilogue = panels[first:last], Epilogue(code, alpha, beta)
            own = start[rows], out[rows], tiles[t], in_order, own_epilogue
            multiply_panels(own_panels, scales[rows], slabs, (begin, end), *own)
