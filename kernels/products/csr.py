"""Products with a block in compressed sparse rows, by the convention of ``dense``.

Row ``places[i]`` holds ``data[indptr[i]:indptr[i + 1]]`` in the columns ``indices[indptr[i]:indptr[i + 1]]``.
So rows can be stored, and computed, in an order in which neighbours read the same samples.  From row i on
``alike[i]`` ones, itself among them, have entries in the same columns.

All index arrays are ``INDEX_DTYPE``: signed ones may be negative, which Numba must then test at every
element, four times slower.  (uint64 pointers work as well, for 2**32 non-zeros or more, but are not among
what ``warm_up`` compiles.)
"""

from __future__ import annotations

import numba
import numpy as np

from ..arguments import EPILOGUE, INDEX, REAL, Array, Epilogue
from ..jit import jit
from ..llvm.sparse_rows import ROW_VECTORS, add_columns
from ..llvm.vectors import lanes
from ..maps.activations import activate_in_place, levels
from ..registry import kernel, thread_variant
from .shares import row_shares

_ROWS = {
    "data": Array(REAL, 1),
    "indices": Array(INDEX, 1),
    "indptr": Array(INDEX, 1),
    "places": Array(INDEX, 1),
    "alike": Array(INDEX, 1),
}
_VECTOR, _MATRIX = Array(REAL, 1), Array(REAL, 2)


@kernel(
    arguments={**_ROWS, "x": _VECTOR, "start": _VECTOR, "out": _VECTOR, "epilogue": EPILOGUE}, replayed=True
)
def csr_vector(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    places: np.ndarray,
    alike: np.ndarray,
    x: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
    epilogue: Epilogue,
) -> None:
    """out = act(start + W x) for one sample.

    Args:
        data, indices: (nonzeros,).
        indptr: (r + 1,).
        places: (r,), none twice.
        alike: (r,), 1 or more.
        x: (n,), not overlapping out.
        start: (m,), a bias or ``out`` itself.
        out: (m,).
        epilogue: activation.
    """
    for i in range(places.size):
        row, total = places[i], data.dtype.type(0)
        for k in range(indptr[i], indptr[i + 1]):
            total += data[k] * x[indices[k]]
        out[row] = start[row] + total
        activate_in_place(out[row : row + 1], epilogue.code, epilogue.alpha, epilogue.beta)


@kernel(
    arguments={**_ROWS, "X": _MATRIX, "start": _MATRIX, "out": _MATRIX, "epilogue": EPILOGUE}, replayed=True
)
def csr_batch(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    places: np.ndarray,
    alike: np.ndarray,
    X: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
    epilogue: Epilogue,
) -> None:
    """out = act(start + W X) for a batch.

    Args:
        data, indices: (nonzeros,).
        indptr: (r + 1,).
        places: (r,), none twice.
        alike: (r,), 1 or more.
        X: (n, batch), neuron-major, not overlapping out.
        start: (m, 1), a bias, or (m, batch), possibly ``out`` itself.
        out: (m, batch).
        epilogue: activation.
    """
    batch, wide = out.shape[1], lanes(out.dtype)
    ends = levels(epilogue.code, epilogue.alpha, epilogue.beta)
    for first in range(0, batch, ROW_VECTORS * wide):
        vectors = min(ROW_VECTORS, (batch - first + wide - 1) // wide)
        add_columns(vectors, data, indices, indptr, places, alike, X, first, start, out, ends.low, ends.high)
    if not ends.suffice:
        _activate_rows(out, places, epilogue)


@kernel(
    arguments={**_ROWS, "X": _MATRIX, "start": _MATRIX, "out": _MATRIX, "epilogue": EPILOGUE}, replayed=True
)
def csr_same_bits(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    places: np.ndarray,
    alike: np.ndarray,
    X: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
    epilogue: Epilogue,
) -> None:
    """``csr_batch``, for one sample too, with the sums of a sample in an order that no batch changes.

    ``add_columns`` adds non-zeros up in as many sums as it has registers for: of one vector always as many.
    """
    ends = levels(epilogue.code, epilogue.alpha, epilogue.beta)
    for first in range(0, out.shape[1], lanes(out.dtype)):
        add_columns(1, data, indices, indptr, places, alike, X, first, start, out, ends.low, ends.high)
    if not ends.suffice:
        _activate_rows(out, places, epilogue)


@jit
def _activate_rows(out: np.ndarray, places: np.ndarray, epilogue: Epilogue) -> None:
    for row in places:
        activate_in_place(out[row], epilogue.code, epilogue.alpha, epilogue.beta)


def _share_rows(
    threads: int,
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    places: np.ndarray,
    alike: np.ndarray,
    X: np.ndarray,
    *rest: object,
) -> tuple[int, tuple]:
    columns = X.size // max(1, len(X))
    return data.size * columns, (row_shares(indptr, threads),)


@thread_variant(csr_vector, csr_batch, share=_share_rows)
def csr_threads(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    places: np.ndarray,
    alike: np.ndarray,
    X: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
    epilogue: Epilogue,
    shares: np.ndarray,
) -> None:
    """``csr_vector``, or ``csr_batch`` for X with two axes, by threads with their ``shares`` of the rows."""
    code, alpha, beta = epilogue  # threads are handed its parts
    for t in numba.prange(len(shares) - 1):
        first, last = shares[t], shares[t + 1]
        rows = indptr[first : last + 1], places[first:last], alike[first:last]
        own_epilogue = Epilogue(code, alpha, beta)
        if X.ndim == 1:
            csr_vector(data, indices, *rows, X, start, out, own_epilogue)
        else:
            csr_batch(data, indices, *rows, X, start, out, own_epilogue)


@thread_variant(csr_same_bits, share=_share_rows)
def csr_same_bits_threads(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    places: np.ndarray,
    alike: np.ndarray,
    X: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
    epilogue: Epilogue,
    shares: np.ndarray,
) -> None:
    """``csr_same_bits`` by threads with their ``shares`` of the rows."""
    code, alpha, beta = epilogue  # threads are handed its parts
    for t in numba.prange(len(shares) - 1):
        first, last = shares[t], shares[t + 1]
        rows = indptr[first : last + 1], places[first:last], alike[first:last]
        csr_same_bits(data, indices, *rows, X, start, out, Epilogue(code, alpha, beta))
