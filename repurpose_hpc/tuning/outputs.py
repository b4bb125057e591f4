"""Outputs to the root and their derivatives back, batch by batch.

Every rank sends its output rows to the root (``MPI_Gatherv``), which has labels or the original's outputs.
It sends every rank the derivatives by these rows (``MPI_Scatterv``), and all the loss (``MPI_Bcast``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.runtime.streams.outputs import OutputGather, in_order

if TYPE_CHECKING:
    from mpi4py import MPI


class Outputs:
    """The way of outputs to the root and back; making and using it is collective.

    Args:
        comm: of the ranks; None: this process is alone.
        columns: the output values of this rank, in the order of its rows.
        dtype: of the numbers.
        max_batch: most samples of a batch.
    """

    def __init__(self, comm: MPI.Comm | None, columns: np.ndarray, dtype: np.dtype, max_batch: int) -> None:
        self._comm, self._columns, self._dtype = comm, columns, dtype
        self._gather = None if comm is None else OutputGather(comm, columns, dtype, max_batch)

    def gather(self, rows: np.ndarray) -> np.ndarray | None:
        """Outputs of a batch: from (own rows, batch) to (batch, outputs) on the root, None elsewhere."""
        if self._gather is None:
            return in_order(rows, self._columns)
        return self._gather(np.ascontiguousarray(rows))

    def scatter(self, gradient: np.ndarray | None, batch: int) -> np.ndarray:
        """The reverse: from (batch, outputs) on the root, None elsewhere, to (own rows, batch)."""
        if self._gather is None and gradient is not None:
            return np.ascontiguousarray(gradient.T[self._columns], self._dtype)
        own, message = np.empty((len(self._columns), batch), self._dtype), None
        if self._gather is not None and self._gather.gathered is not None and gradient is not None:
            neurons, rows, _ = self._gather.gathered
            message = np.ascontiguousarray(gradient.T[neurons], self._dtype), rows * batch
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
