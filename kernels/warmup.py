"""Compiling (or loading from the cache) everything a run needs, before anything is timed."""

from __future__ import annotations

import time

import numpy as np

from .activations import ACTIVATION_CODES, activate_in_place
from .csr import INDEX_DTYPE, csr_batch, csr_vector
from .dense import dense_batch, dense_vector
from .exchange import pack, unpack, unpack_add
from .rows import finish


def warm_up(dtype: np.dtype | type | str) -> float:
    """Call every kernel once on arrays of ``dtype`` and return how many seconds that took.

    Seconds the first time on a machine, a fraction of one with the cache.  What it compiles is
    what the kernels' docstrings ask for: C-contiguous writable arrays of one dtype, indices
    of ``INDEX_DTYPE``, ``code`` an int and ``alpha`` a float.

    Raises:
        ValueError: dtype is neither float32 nor float64.
    """
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise ValueError(f"the kernels compute in float32 or float64, not in {np.dtype(dtype)}")
    began = time.perf_counter()
    matrix, vector = np.ones((1, 1), dtype), np.ones(1, dtype)
    indices, indptr = np.zeros(1, INDEX_DTYPE), np.array([0, 1], INDEX_DTYPE)
    out_matrix, out_vector = np.empty_like(matrix), np.empty_like(vector)
    epilogue = ACTIVATION_CODES["identity"], 0.0

    dense_vector(matrix, vector, vector, out_vector, *epilogue)
    dense_batch(matrix, matrix, matrix, out_matrix, *epilogue)
    csr_vector(vector, indices, indptr, vector, vector, out_vector, *epilogue)
    csr_batch(vector, indices, indptr, matrix, matrix, out_matrix, *epilogue)
    finish(matrix, matrix, out_matrix, *epilogue)
    activate_in_place(out_vector, *epilogue)
    activate_in_place(out_matrix, *epilogue)
    pack(matrix, indices, out_matrix)
    unpack(matrix, indices, out_matrix)
    unpack_add(matrix, indices, out_matrix)
    return time.perf_counter() - began
