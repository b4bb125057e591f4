"""Exchanges: what travels between ranks, and in which order.

An *item* is a ghost neuron or a partial sum of a neuron.  Either belongs to the worker that
owns the neuron.  The lists of workers, in the shards, become lists of
ranks here; no rank has to ask another, since both ends put the items in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.kernels import INDEX_DTYPE
from repurpose_hpc.runtime.buffers import Buffer, Part
from repurpose_hpc.runtime.calls import Call

if TYPE_CHECKING:
    from mpi4py import MPI


@dataclass(frozen=True, eq=False)
class Items:
    """Items that a rank sends, or that it receives, in one exchange.

    Attributes:
        neurons: each once per peer rank, ordered by (peer rank, owner, neuron), or once per peer rank and
            sender of a sum, ordered by (peer rank, sender, owner, neuron); (count,) int64.
        counts: how many for each rank, (R,) int64.
        positions: for each hosted worker, where its items are in ``neurons``; ``INDEX_DTYPE``.
    """

    neurons: np.ndarray
    counts: np.ndarray
    positions: list[np.ndarray]


def merge_items(
    peers: Sequence[np.ndarray],
    workers: Sequence[Sequence[np.ndarray]],
    neurons: Sequence[np.ndarray],
    ranks: int,
) -> Items:
    """The union of the items of the hosted workers.

    Args:
        peers, neurons: one array for each hosted worker; for each of its items the rank that it goes to or
            comes from, and the neuron.
        workers: likewise, the worker that owns the neuron; before it the sender, where items of several
            stay apart.
        ranks: R.
    """
    keys = np.stack([np.concatenate(part).astype(np.int64) for part in (peers, *workers, neurons)], axis=1)
    items, positions = np.unique(keys, axis=0, return_inverse=True)
    ends = np.cumsum([part.size for part in neurons])[:-1]
    return Items(
        neurons=items[:, -1],
        counts=np.bincount(items[:, 0], minlength=ranks),
        positions=np.split(positions.reshape(-1).astype(INDEX_DTYPE), ends),
    )


class Exchange:
    """One all-to-all of the ghosts of a tensor, or of the partial sums of a mixing: counts and buffers.

    Rank p sends to rank q one contiguous block.  Of ghosts it has the neurons of p's workers that any worker
    of q has as a ghost, each once.  Of sums it has one, over p's workers, for each neuron of q's workers that
    any of p's contributes to; in a deterministic program one for each of p's workers that does.  Both ends
    order the block by (owner, neuron), or (sender, owner, neuron), and the blocks by rank: p's send buffer is
    ordered by (q, owner, neuron) and q's receive buffer by (p, owner, neuron).  A rank sends nothing to
    itself.  Every item is a row of samples times ``values`` consecutive numbers, unless ghosts travel in a
    scaled format (see ``comm_dtype``); counts and displacements are those of the rows times that.

    A transport carries it (see ``transport``).  The caller fills ``send``, makes the request's calls to
    post, computes what needs no other rank, makes those to wait and reads ``receive``.  ``send`` must not
    change from then until those to free it are made.

    Attributes:
        sent, received: rows for each rank, and from it, (R,) int64.
        send, receive: buffers of the rows.
        values_sent: values per sample that go to other ranks; zeros as well, even if the transport leaves
            them out.
        bytes_sent: what these take.
        messages: other ranks that get something.
    """

    def __init__(
        self,
        sent: np.ndarray,
        received: np.ndarray,
        max_batch: int,
        dtype: np.dtype,
        values: int = 1,
        items: int | None = None,
    ) -> None:
        """Allocates the buffers; nothing is sent.

        Args:
            sent, received: how many rows go to each rank, and come from it, (R,) int64.
            max_batch: most samples.
            dtype: of the numbers.
            values: of an item, per sample.
            items: that are sent; None: as many as rows.
        """
        self.sent, self.received = sent, received
        self.send = Buffer(int(sent.sum()), max_batch, dtype, values)
        self.receive = Buffer(int(received.sum()), max_batch, dtype, values)
        self.values_sent = (self.send.rows if items is None else items) * values
        self.bytes_sent = self.send.rows * values * dtype.itemsize
        self.messages = int(np.count_nonzero(sent))

    @property
    def members(self) -> Sequence[Exchange]:
        """The exchanges that it consists of: itself alone."""
        return (self,)

    def merge_calls(self, part: Part) -> list[Call]:
        """Calls that bring the members' items into ``send``: none."""
        return []

    def split_calls(self, part: Part) -> list[Call]:
        """Calls that bring what came in ``receive`` to the members: none."""
        return []


def exchanges_in_use(exchanges: Sequence[Exchange], comm: MPI.Comm | None) -> set[Exchange]:
    """Exchanges in which any rank sends anything; collective: every rank tells all others what it sends."""
    sent = everywhere([exchange.values_sent > 0 for exchange in exchanges], comm)
    return {exchange for exchange, is_used in zip(exchanges, sent, strict=True) if is_used}


def everywhere(flags: Sequence[bool], comm: MPI.Comm | None) -> list[bool]:
    """Whether any rank has each flag; collective: every rank tells all others."""
    found = np.array(flags, np.int64)
    if comm is not None:
        from mpi4py import MPI

        comm.Allreduce(MPI.IN_PLACE, found)
    return (found > 0).tolist()
