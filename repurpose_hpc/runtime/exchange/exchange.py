"""What travels between ranks, and in which order.

An *item* is a ghost neuron or a partial sum of a neuron.  Either belongs to the worker that
owns the neuron.  The lists of workers, in the shards, become lists of
ranks here; no rank has to ask another, since both ends put the items in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from mpi4py import MPI

from repurpose_hpc.errors import UserError
from repurpose_hpc.kernels import INDEX_DTYPE, aligned
from repurpose_hpc.runtime.buffers import Buffer, Part
from repurpose_hpc.runtime.exchange.messages import Carrier, Message, Ranks
from repurpose_hpc.runtime.exchange.transports.shared import Outbox, Window, outbox_bytes
from repurpose_hpc.runtime.exchange.transports.table import CARRIERS

MOST_NUMBERS = np.iinfo(np.intc).max
_MPI_TYPES = {
    np.dtype(np.float32): MPI.FLOAT,
    np.dtype(np.float64): MPI.DOUBLE,
    np.dtype(np.uint16): MPI.UINT16_T,
    np.dtype(np.int16): MPI.INT16_T,
    np.dtype(np.int8): MPI.INT8_T,
}


@dataclass(frozen=True, eq=False)
class Items:
    """What a rank sends, or what it receives, in one exchange.

    Attributes:
        neurons: each once per peer rank, ordered by (peer rank, owner, neuron); (count,) int64.
        counts: how many for each rank, (R,) int64.
        positions: for each hosted worker, where its items are in ``neurons``; ``INDEX_DTYPE``.
    """

    neurons: np.ndarray
    counts: np.ndarray
    positions: list[np.ndarray]


def merge_items(
    peers: Sequence[np.ndarray], owners: Sequence[np.ndarray], neurons: Sequence[np.ndarray], ranks: int
) -> Items:
    """The union of the items of the hosted workers.

    Args:
        peers, owners, neurons: one array for each hosted worker; for each of its items the
            rank that it goes to or comes from, the worker that owns the neuron, the neuron.
        ranks: R.
    """
    keys = np.stack([np.concatenate(part).astype(np.int64) for part in (peers, owners, neurons)], axis=1)
    items, positions = np.unique(keys, axis=0, return_inverse=True)
    ends = np.cumsum([part.size for part in neurons])[:-1]
    return Items(
        neurons=items[:, 2],
        counts=np.bincount(items[:, 0], minlength=ranks),
        positions=np.split(positions.reshape(-1).astype(INDEX_DTYPE), ends),
    )


class Exchange:
    """One all-to-all of the ghosts of a tensor, or of the partial sums of a mixing.

    Rank p sends to rank q one contiguous block: the neurons of p's workers that some worker of q
    has as a ghost, each once however many do; or one sum, over p's workers, for each neuron
    of q's workers that some of them contribute to.  Both ends order
    the block by (owner, neuron), and the blocks by rank, so p's send buffer is ordered by (q,
    owner, neuron) and q's receive buffer by (p, owner, neuron).  A rank sends nothing to
    itself.  Every item is samples times ``values`` consecutive numbers, so counts and displacements
    are those of the items times that.

    The caller fills ``send``, makes the carrier's calls to post, computes what needs no other
    rank, makes those to wait and reads ``receive``.  ``send`` must not change in between.

    Attributes:
        sent, received: items for each rank, and from it, (R,) int64.
        send, receive: buffers of the items.
        values_sent: values per sample that go to other ranks; zeros as well, even if the carrier leaves them
            out.
        bytes_sent: what these take.
        messages: other ranks that get something.
        active: whether any rank sends anything, once they have agreed; if not, all skip the collective.
        tag, tags: its number among those of a program, and how many these are.
    """

    def __init__(
        self,
        comm: MPI.Comm,
        sent: np.ndarray,
        received: np.ndarray,
        max_batch: int,
        dtype: np.dtype,
        values: int = 1,
    ) -> None:
        """Nothing is sent yet.

        Args:
            comm: of the ranks.
            sent, received: how many items go to each rank, and come from it, (R,) int64.
            max_batch: most samples.
            dtype: of the numbers.
            values: of an item, per sample.
        """
        self._ranks, self._type = Ranks(comm), _MPI_TYPES[dtype]
        self.sent, self.received = sent, received
        self.send = Buffer(int(sent.sum()), max_batch, dtype, values)
        self.receive = Buffer(int(received.sum()), max_batch, dtype, values)
        self.values_sent = self.send.rows * values
        self.bytes_sent = self.values_sent * dtype.itemsize
        self.messages = int(np.count_nonzero(sent))
        self.active, self.tag, self.tags = True, 0, 1
        self._outbox: Outbox | None = None

    @property
    def members(self) -> Sequence[Exchange]:
        """The exchanges that it consists of: itself alone."""
        return (self,)

    def carrier(self, way: str, part: Part) -> Carrier:
        """The calls that make this exchange for a part of a batch; collective, unless it is not active."""
        if not self.active:
            return Carrier([], [], [])
        sent, received = (
            self._message(buffer, counts, part)
            for buffer, counts in ((self.send, self.sent), (self.receive, self.received))
        )
        sent = replace(sent, outbox=self._outbox)
        return CARRIERS[way](self._ranks, sent, received, self.tag + part.number * self.tags)

    def free(self) -> None:
        """Give back what MPI keeps for carriers; collective; they must not be used any more."""
        self._ranks.free()

    def shared_bytes(self, parts: int) -> int:
        """What ``share`` takes for batches of so many parts."""
        return outbox_bytes(self.send.flat.nbytes, self.messages, parts) * self.active

    def share(self, window: Window, memory: np.ndarray, parts: int) -> None:
        """Send from ``memory``, ``shared_bytes`` of ``window``; to be called before carriers are made."""
        if self.active:
            own = self.send.flat
            self._outbox = Outbox(window, memory, own.nbytes, self.messages, parts)
            self.send.move(self._outbox.buffer.view(own.dtype))

    def unshare(self) -> None:
        """Send from memory of its own again; the carriers so far must not be used any more."""
        if self._outbox:
            self.send.move(aligned(self.send.flat.shape, self.send.flat.dtype))
            self._outbox = None

    def _message(self, buffer: Buffer, items: np.ndarray, part: Part) -> Message:
        counts = items * (part.samples * buffer.values)
        if counts.sum() > MOST_NUMBERS:
            raise UserError(
                f"expected at most {MOST_NUMBERS} numbers in an exchange, as MPI counts them, found "
                f"{counts.sum()}; take smaller batches, or more micro-batches"
            )
        places = (np.cumsum(counts) - counts).astype(np.intc)
        return Message(buffer.view(part).reshape(-1), counts.astype(np.intc), places, self._type, part.number)


def deactivate_empty(exchanges: Sequence[Exchange], comm: MPI.Comm) -> None:
    """All ranks agree (collectively) to skip the exchanges in which none sends anything."""
    values = np.array([exchange.values_sent for exchange in exchanges], np.int64)
    comm.Allreduce(MPI.IN_PLACE, values)
    for exchange, sent in zip(exchanges, values.tolist(), strict=True):
        exchange.active = sent > 0


def number(exchanges: Sequence[Exchange]) -> None:
    """Tell the exchanges of a program apart."""
    for tag, exchange in enumerate(exchanges):
        exchange.tag, exchange.tags = tag, len(exchanges)


class Sharing:
    """Exchanges send from a window that all ranks see, until it is freed."""

    def __init__(self, exchanges: Sequence[Exchange], comm: MPI.Comm, parts: int = 1) -> None:
        """Collective, for batches of at most ``parts`` parts; raises what ``Window`` does."""
        self._exchanges, sizes = exchanges, [exchange.shared_bytes(parts) for exchange in exchanges]
        self._window = Window(sum(sizes), comm)
        ends = np.cumsum(sizes).tolist()
        for exchange, size, end in zip(exchanges, sizes, ends, strict=True):
            exchange.share(self._window, self._window.memory[end - size : end], parts)

    def free(self) -> None:
        """Collective."""
        for exchange in self._exchanges:
            exchange.unshare()
        self._window.free()
