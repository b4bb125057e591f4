"""The kernels that take nearly all time, their rows shared among the threads of a process.

Every thread computes some rows of ``out`` with the same instructions as a single one would, so results do not
depend on the number of threads, to the last bit.  Rows are cut once, by ``row_shares``.  The threads
are Numba's, whose pool (OpenMP, if there is one on the machine) is started by the first call.
"""

from __future__ import annotations

import numba
import numpy as np

from .jit import parallel_jit
from .llvm.panel import PANEL_NEURONS
from .maps.convolution import convolve_direct
from .products.csr import csr_batch, csr_vector
from .products.dense import multiply_panels, needs_slabs, pack_slabs, slab_count


def row_shares(work: np.ndarray, threads: int) -> np.ndarray:
    """Where each thread's rows begin and the last one's end, so that all have about the same work.

    Args:
        work: of all rows before each, and of all; ascending, (rows + 1,).
        threads: 1 or more.

    Returns:
        (threads + 1,) int64.
    """
    wanted = int(work[-1]) * np.arange(1, threads) // threads
    inner = np.searchsorted(work, wanted)
    return np.concatenate([[0], inner, [len(work) - 1]]).astype(np.int64)


@parallel_jit
def dense_threads(
    panels: np.ndarray,
    scales: np.ndarray,
    X: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
    scratch: np.ndarray,
    code: int,
    alpha: float,
    beta: float,
    shares: np.ndarray,
    tiles: np.ndarray,
) -> None:
    """``dense`` by several threads.

    Args:
        panels, scales, X, start, out, scratch, code, alpha, beta: as of ``dense``.
        shares: of the panels.
        tiles: (threads, at least ``tiles_size``).
    """
    batch, threads, R = X.shape[1], len(tiles), panels.shape[2]
    slabs = X.reshape(-1)
    if needs_slabs(batch):
        slabs, count = scratch, slab_count(batch)
        for t in numba.prange(threads):
            pack_slabs(X, scratch, count * t // threads, count * (t + 1) // threads)
    for t in numba.prange(threads):
        first, last = shares[t], shares[t + 1]
        rows = slice(first * R, min(last * R, len(out)))
        some = panels[first:last]
        multiply_panels(some, scales[rows], slabs, start[rows], out[rows], tiles[t], code, alpha, beta)


@parallel_jit
def csr_threads(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    X: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
    code: int,
    alpha: float,
    beta: float,
    shares: np.ndarray,
) -> None:
    """``csr_vector``, or ``csr_batch`` for X with two axes, by threads with their ``shares`` of the rows."""
    for t in numba.prange(len(shares) - 1):
        first, last = shares[t], shares[t + 1]
        ends, begun, done = indptr[first : last + 1], start[first:last], out[first:last]
        if X.ndim == 1:
            csr_vector(data, indices, ends, X, begun, done, code, alpha, beta)
        else:
            csr_batch(data, indices, ends, X, begun, done, code, alpha, beta)


@parallel_jit
def convolve_threads(
    weights: np.ndarray,
    x: np.ndarray,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, int],
    start: np.ndarray,
    out: np.ndarray,
    code: int,
    alpha: float,
    beta: float,
    shares: np.ndarray,
) -> None:
    """``convolve_direct`` by several threads, each with its ``shares`` of the panels of neurons."""
    for t in numba.prange(len(shares) - 1):
        first, last = shares[t], shares[t + 1]
        rows = slice(first * PANEL_NEURONS, min(last * PANEL_NEURONS, len(out)))
        some = weights[first:last]
        convolve_direct(some, x, kernel, strides, dilations, pads, start[rows], out[rows], code, alpha, beta)
