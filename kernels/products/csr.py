"""Products with a block in compressed sparse rows, by the convention of ``dense``.

Row i holds ``data[indptr[i]:indptr[i + 1]]`` in the columns ``indices[indptr[i]:indptr[i + 1]]``.
Both index arrays are ``INDEX_DTYPE``: signed ones may be negative, which Numba must then
test at every element, four times slower.  (uint64 pointers work as well, for 2**32
non-zeros or more, but are not among what ``warm_up`` compiles.)
"""

from __future__ import annotations

import numpy as np

from ..jit import jit
from ..llvm.sparse_rows import ROW_VECTORS, add_columns
from ..llvm.vectors import lanes
from ..maps.activations import activate_in_place
from .rows import spread

INDEX_DTYPE = np.uint32


@jit
def csr_vector(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    x: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
    code: int,
    alpha: float,
    beta: float,
) -> None:
    """out = act(start + W x) for one sample.

    Args:
        data, indices: (nonzeros,).
        indptr: (m + 1,).
        x: (n,), not overlapping out.
        start: (m,), a bias or ``out`` itself.
        out: (m,).
        code: activation, one of ``ACTIVATION_CODES``.
        alpha, beta: its parameters.
    """
    for i in range(out.size):
        total = data.dtype.type(0)
        for k in range(indptr[i], indptr[i + 1]):
            total += data[k] * x[indices[k]]
        out[i] = start[i] + total
    activate_in_place(out, code, alpha, beta)


@jit
def csr_batch(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    X: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
    code: int,
    alpha: float,
    beta: float,
) -> None:
    """out = act(start + W X) for a batch.

    Args:
        data, indices: (nonzeros,).
        indptr: (m + 1,).
        X: (n, batch), neuron-major, not overlapping out.
        start: (m, 1), a bias, or (m, batch), possibly ``out`` itself.
        out: (m, batch).
        code: activation, one of ``ACTIVATION_CODES``.
        alpha, beta: its parameters.
    """
    spread(start, out)
    batch, wide = out.shape[1], lanes(out.dtype)
    for first in range(0, batch, ROW_VECTORS * wide):
        vectors = min(ROW_VECTORS, (batch - first + wide - 1) // wide)
        add_columns(vectors, data, indices, indptr, X, first, out)
    activate_in_place(out, code, alpha, beta)
