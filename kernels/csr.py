"""Products with a block in compressed sparse rows, by the convention of ``dense``.

Row i holds ``data[indptr[i]:indptr[i + 1]]`` in the columns ``indices[indptr[i]:indptr[i + 1]]``.
Both index arrays are ``INDEX_DTYPE``: signed ones may be negative, which Numba must then
test at every element, four times slower.  (uint64 pointers work as well, for 2**32
non-zeros or more, but are not among what ``warm_up`` compiles.)
"""

from __future__ import annotations

import numpy as np

from .activations import activate_in_place
from .jit import jit
from .rows import spread
from .sparse_rows import ROW_VECTORS, add_columns
from .vectors import lanes

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
def _add_row(weights: np.ndarray, columns: np.ndarray, X: np.ndarray, out: np.ndarray) -> None:
    """out += weights X[columns]; four non-zeros at a time, so that out is read and written less often."""
    whole = weights.size - weights.size % 4
    for k in range(0, whole, 4):
        w0, w1, w2, w3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        x0, x1, x2, x3 = X[columns[k]], X[columns[k + 1]], X[columns[k + 2]], X[columns[k + 3]]
        for b in range(out.size):
            out[b] += w0 * x0[b] + w1 * x1[b] + w2 * x2[b] + w3 * x3[b]
    for k in range(whole, weights.size):
        w0, x0 = weights[k], X[columns[k]]
        for b in range(out.size):
            out[b] += w0 * x0[b]


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
    several = ROW_VECTORS * wide
    first = 0
    while batch - first >= wide:
        vectors = ROW_VECTORS if batch - first >= several else 1
        for i in range(out.shape[0]):
            add_columns(vectors, data, indices, indptr[i], indptr[i + 1], X, first, out, i)
        first += vectors * wide
    if first < batch:
        for i in range(out.shape[0]):
            row = slice(indptr[i], indptr[i + 1])
            _add_row(data[row], indices[row], X[:, first:], out[i, first:])
    activate_in_place(out, code, alpha, beta)
