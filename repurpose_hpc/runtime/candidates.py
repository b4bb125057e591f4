"""The largest outputs of a token: those among which the next one is chosen.

Every rank sends the root the largest of its own (``MPI_Gatherv``), which has the largest of all among these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from mpi4py import MPI


class Candidates(NamedTuple):
    """The largest outputs of a token, the largest first, of equal ones that with the lowest number.

    Attributes:
        ids: their numbers, (count,) int64.
        logits: the outputs, (count,); all NaN if any output of the token is not finite.
    """

    ids: np.ndarray
    logits: np.ndarray


def best(ids: np.ndarray, logits: np.ndarray, count: int) -> Candidates:
    """The largest ``count`` of some outputs, or all of fewer.

    Args:
        ids: numbers of the outputs, (n,) integers, in any order.
        logits: the outputs, (n,).
        count: 1 or more.
    """
    if not np.isfinite(logits).all():
        logits = np.full_like(logits, np.nan)
    elif count < logits.size:
        least = logits.max() if count == 1 else np.partition(logits, -count)[-count]
        chosen = np.flatnonzero(logits >= least)
        ids, logits = ids[chosen], logits[chosen]
    order = np.lexsort((ids, -logits))[:count]
    return Candidates(ids[order], logits[order])


def best_of_tokens(ids: np.ndarray, rows: np.ndarray, count: int) -> list[Candidates]:
    """The largest ``count`` outputs of each token, from ``rows`` (n, tokens) of numbers ``ids`` (n,)."""
    return [best(ids, logits, count) for logits in np.ascontiguousarray(rows.T)]


class CandidateGather:
    """Brings the largest outputs of tokens to the root.

    Every rank sends its own largest ones to the root (``MPI_Gatherv``): as many as are asked for, if it has
    them.

    Args:
        comm: of the run; making and using this is collective.
        ids: the numbers of the outputs of this rank, in the order of its rows.
        dtype: of the outputs.
    """

    def __init__(self, comm: MPI.Comm, ids: np.ndarray, dtype: np.dtype) -> None:
        self._comm, self._ids = comm, ids
        self._record = np.dtype([("id", np.int64), ("logit", dtype)])
        self._outputs_of_ranks = comm.gather(ids.size, root=0)

    def __call__(self, rows: np.ndarray, count: int) -> list[Candidates] | None:
        """Gather those of some tokens.

        Args:
            rows: outputs of this rank, (its outputs, tokens).
            count: of the largest of each token, 1 or more, the same on all ranks.

        Returns:
            on the root those of each token; None elsewhere.
        """
        tokens = rows.shape[1]
        sent = np.empty((tokens, min(count, self._ids.size)), self._record)
        for records, candidates in zip(sent, best_of_tokens(self._ids, rows, count), strict=True):
            records["id"], records["logit"] = candidates
        if self._outputs_of_ranks is None:
            self._comm.Gatherv(_bytes(sent), None, root=0)
            return None
        sizes = [tokens * min(count, outputs) for outputs in self._outputs_of_ranks]
        received = np.empty(sum(sizes), self._record)
        self._comm.Gatherv(
            _bytes(sent), (_bytes(received), [size * received.itemsize for size in sizes]), root=0
        )
        of_ranks = [part.reshape(tokens, -1) for part in np.split(received, np.cumsum(sizes)[:-1])]
        of_tokens = np.concatenate(of_ranks, axis=1)
        return [best(records["id"], records["logit"], count) for records in of_tokens]


def _bytes(records: np.ndarray) -> np.ndarray:
    """The memory of records, (bytes,) uint8."""
    return records.reshape(-1).view(np.uint8)
