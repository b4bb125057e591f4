"""Compiling (or loading from the cache) everything a run needs, before anything is timed."""

from __future__ import annotations

import time

import numpy as np

from .maps.activations import ACTIVATION_CODES, activate_in_place
from .maps.convolution import convolve_direct, pack_weights
from .maps.elementwise import COMBINATION_CODES, affine, combine, take_positions
from .maps.pooling import average_pool, depthwise, max_pool
from .maps.windows import patches
from .messages.comm_dtype import pack_codes, unpack_codes
from .messages.packing import clear, pack, unpack, unpack_add
from .messages.zeros import expand, squeeze
from .parallel import convolve_threads, csr_threads, dense_threads
from .products.csr import INDEX_DTYPE, csr_batch, csr_vector
from .products.dense import dense, dense_scratch, panel_rows, tiles_size
from .products.rows import finish
from .replay import compile_player


def warm_up(
    dtype: np.dtype | type | str,
    maps: bool = False,
    stored: np.dtype | None = None,
    codes: np.dtype | None = None,
    zeros: bool = False,
    parallel: bool = False,
) -> float:
    """Call every kernel once on arrays of ``dtype`` and return how many seconds that took.

    With ``maps`` those of feature maps as well, which not every network needs; dense weights as they are
    ``stored``; what turns values into ``codes`` and back; with ``zeros`` what leaves these out of messages of
    values or codes; with ``parallel`` the kernels that threads share.  Seconds the first time on a machine, a
    fraction of one with the cache.  What it compiles is what the kernels' docstrings ask for: C-contiguous
    writable arrays of one dtype, indices of ``INDEX_DTYPE``, ``code`` an int, ``alpha`` and ``beta`` floats.

    Raises:
        ValueError: dtype is neither float32 nor float64.
    """
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise ValueError(f"the kernels compute in float32 or float64, not in {np.dtype(dtype)}")
    began = time.perf_counter()
    matrix, vector = np.ones((1, 1), dtype), np.ones(1, dtype)
    indices, indptr = np.zeros(1, INDEX_DTYPE), np.array([0, 1], INDEX_DTYPE)
    out_matrix, out_vector = np.empty_like(matrix), np.empty_like(vector)
    epilogue = ACTIVATION_CODES["identity"], 0.0, 0.0

    panels = np.zeros((1, 1, panel_rows(vector.dtype)), dtype if stored is None else stored)
    scratch = np.empty(dense_scratch(1, 1, vector.dtype), dtype)
    dense(panels, vector, matrix, matrix, out_matrix, scratch, *epilogue)
    csr_vector(vector, indices, indptr, vector, vector, out_vector, *epilogue)
    csr_batch(vector, indices, indptr, matrix, matrix, out_matrix, *epilogue)
    finish(matrix, matrix, out_matrix, *epilogue)
    activate_in_place(out_vector, *epilogue)
    activate_in_place(out_matrix, *epilogue)
    clear(out_matrix)
    pack(matrix, indices, out_matrix)
    unpack(matrix, indices, out_matrix)
    unpack_add(matrix, indices, out_matrix)
    code = None
    if codes is not None:
        scales, code = np.ones(1, np.float32), np.zeros((1, 1), codes)
        pack_codes(matrix, indices, scales, code)
        unpack_codes(code, scales, out_matrix)
    if zeros:
        for each in (dtype, dtype if codes is None else codes):
            numbers = np.zeros(1, f"u{np.dtype(each).itemsize}")
            squeeze(numbers, numbers.copy())
            expand(numbers, 1, numbers.copy())
    if maps:
        _warm_up_maps(dtype, epilogue, parallel)
    if parallel:
        shares, tiles = np.array([0, 1]), np.empty((1, tiles_size(1, panels.shape[2])), dtype)
        dense_threads(panels, vector, matrix, matrix, out_matrix, scratch, *epilogue, shares, tiles)
        csr_threads(vector, indices, indptr, vector, vector, out_vector, *epilogue, shares)
        csr_threads(vector, indices, indptr, matrix, matrix, out_matrix, *epilogue, shares)
    compile_player(vector, panels, code)
    return time.perf_counter() - began


def _warm_up_maps(dtype: np.dtype | type | str, epilogue: tuple[int, float, float], parallel: bool) -> None:
    x, bias, out = (np.ones((1, 1, 1, 1), dtype) for _ in range(3))
    filters, rows, row = np.ones((1, 1, 1), dtype), np.ones((1, 1), dtype), np.empty((1, 1, 1), dtype)
    one, none = (1, 1), (0, 0)

    convolution = pack_weights(rows), x, one, one, one, none, bias, out, *epilogue
    convolve_direct(*convolution)
    if parallel:
        convolve_threads(*convolution, np.array([0, 1]))
    patches(x, 0, one, one, one, one, none, rows)
    depthwise(filters, x, one, one, none, bias, out, *epilogue)
    max_pool(x, one, one, one, none, out)
    average_pool(x, one, one, one, none, (0, 0, 0, 0), out)
    affine(rows, filters, rows, row, *epilogue)
    combine(COMBINATION_CODES["add"], filters, filters, row, *epilogue)
    take_positions(filters, np.zeros(1, np.int64), 0.0, row)
