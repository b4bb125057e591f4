"""Outputs to the root and their derivatives back, batch by batch.

Every rank sends its output rows to the root (``MPI_Gatherv``), which has labels or the original's outputs.
It sends every rank the derivatives by these rows (``MPI_Scatterv``), and all the loss (``MPI_Bcast``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.runtime.streams.outputs import in_order

if TYPE_CHECKING:
    from mpi4py import MPI


class Outputs:
    """The way of outputs to the root and back; making and using it is collective.

    Args:
        comm: of the ranks; None: this process is alone.
        columns: the output values of this rank, in the order of its rows.
        dtype: of the numbers.
    """

    def __init__(self, comm: MPI.Comm | None, columns: np.ndarray, dtype: np.dtype) -> None:
        self._comm, self._dtype = comm, dtype
        of_ranks = [columns] if comm is None else comm.gather(columns, root=0)
        self._order = None if of_ranks is None else np.concatenate(of_ranks)
        self._rows = None if of_ranks is None else np.array([len(part) for part in of_ranks])
        self._own = len(columns)

    @property
    def is_root(self) -> bool:
        """Whether this rank gets the outputs."""
        return self._order is not None

    def gather(self, rows: np.ndarray) -> np.ndarray | None:
        """Outputs of a batch: from (own rows, batch) to (batch, outputs) on the root, None elsewhere."""
        if self._comm is None:
            return in_order(rows, self._root_order)
        rows = np.ascontiguousarray(rows)
        if self._rows is None:
            self._comm.Gatherv(rows, None, root=0)
            return None
        batch = rows.shape[1]
        received = np.empty((self._root_order.size, batch), self._dtype)
        self._comm.Gatherv(rows, (received, self._rows * batch), root=0)
        return in_order(received, self._root_order)

    def scatter(self, gradient: np.ndarray | None, batch: int) -> np.ndarray:
        """The reverse: from (batch, outputs) on the root, None elsewhere, to (own rows, batch)."""
        own = np.empty((self._own, batch), self._dtype)
        if gradient is not None:
            sent = np.ascontiguousarray(gradient.T[self._root_order], self._dtype)
            if self._comm is None:
                return sent
            self._comm.Scatterv((sent, self._rows * batch), own, root=0)
        elif self._comm is not None:
            self._comm.Scatterv(None, own, root=0)
        return own

    def tell(self, loss: float) -> float:
        """The root's loss, on all ranks."""
        if self._comm is None:
            return loss
        value = np.array(loss)
        self._comm.Bcast(value, root=0)
        return float(value)

    @property
    def _root_order(self) -> np.ndarray:
        if self._order is None:
            raise RuntimeError("expected the root")
        return self._order
