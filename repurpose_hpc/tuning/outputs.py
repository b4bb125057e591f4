"""Outputs to the root and their derivatives back, batch by batch.

Every rank sends its output rows to the root (``MPI_Gatherv``), which has labels or the original's outputs.
It sends every rank the derivatives by these rows (``MPI_Scatterv``), and all the loss (``MPI_Bcast``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from repurpose_hpc.runtime.streams.outputs import in_order

if TYPE_CHECKING:
    from mpi4py import MPI


class _AtRoot(NamedTuple):
    """Data of the root: output values in the order of arrival, and rows of each rank."""

    order: np.ndarray
    rows: np.ndarray


class Outputs:
    """The way of outputs to the root and back; making and using it is collective.

    Args:
        comm: of the ranks; None: this process is alone.
        columns: the output values of this rank, in the order of its rows.
        dtype: of the numbers.
    """

    def __init__(self, comm: MPI.Comm | None, columns: np.ndarray, dtype: np.dtype) -> None:
        self._comm, self._columns, self._dtype = comm, columns, dtype
        self._root: _AtRoot | None = None
        of_ranks = None if comm is None else comm.gather(columns, root=0)
        if of_ranks is not None:
            rows = np.array([len(part) for part in of_ranks])
            self._root = _AtRoot(np.concatenate(of_ranks), rows)

    def gather(self, rows: np.ndarray) -> np.ndarray | None:
        """Outputs of a batch: from (own rows, batch) to (batch, outputs) on the root, None elsewhere."""
        rows, root = np.ascontiguousarray(rows), self._root
        if self._comm is None:
            return in_order(rows, self._columns)
        if root is None:
            self._comm.Gatherv(rows, None, root=0)
            return None
        received = np.empty((root.order.size, rows.shape[1]), self._dtype)
        self._comm.Gatherv(rows, (received, root.rows * rows.shape[1]), root=0)
        return in_order(received, root.order)

    def scatter(self, gradient: np.ndarray | None, batch: int) -> np.ndarray:
        """The reverse: from (batch, outputs) on the root, None elsewhere, to (own rows, batch)."""
        if self._comm is None and gradient is not None:
            return np.ascontiguousarray(gradient.T[self._columns], self._dtype)
        own, root, message = np.empty((len(self._columns), batch), self._dtype), self._root, None
        if root is not None and gradient is not None:
            message = np.ascontiguousarray(gradient.T[root.order], self._dtype), root.rows * batch
        if self._comm is not None:
            self._comm.Scatterv(message, own, root=0)
        return own

    def tell(self, loss: float) -> float:
        """The root's loss, on all ranks."""
        if self._comm is None:
            return loss
        value = np.array(loss)
        self._comm.Bcast(value, root=0)
        return float(value)
