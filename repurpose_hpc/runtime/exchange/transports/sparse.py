"""The way ``sparse``: what is zero is not sent.

Every rank sends one message to each rank that needs something from it, as every other way does, and
receives one from each rank that has something for it.  After ReLU many numbers of a block are zero.
The sender looks at them, anew for every batch, and sends the shorter of two forms of the block: all of it,
or a bit for each number and the numbers that are not zero (see ``kernels.zeros``).  The receiver has room
for all of it.  The message that comes may be shorter; its length says which form it has.  What is
in the receive buffer in the end has the same bits as after any other way.

Receives are persistent, and all of a forward are started when it begins, as those of ``p2p`` are.  Sends are
not, since their lengths change.  Messages have memory of their own, once more that of the buffers.

This is for slow networks: Python makes the calls, and every number is looked at twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from repurpose_hpc.kernels import expand, squeeze
from repurpose_hpc.runtime.exchange.messages import Carrier, Message, Ranks, Tally
from repurpose_hpc.runtime.lowering.blocks import EXCHANGE, PACK, WAIT, Call
from repurpose_hpc.runtime.schedule.mpi_functions import Requests, function


def sparse(ranks: Ranks, sent: Message, received: Message, tag: int) -> Carrier:
    """An exchange of one batch size without zeros; ``tag`` tells its messages from other exchanges'."""
    sends, receives = _Sends(ranks.comm, sent, tag), _Receives(ranks.comm, received, tag)
    return Carrier(
        receives.begin_calls(),
        [(PACK, sends.squeeze, ()), (EXCHANGE, sends.start, ())],
        [(WAIT, receives.complete, ()), (PACK, receives.expand, ()), (WAIT, sends.complete, ())],
        (sends, receives),
        tally=sends.tally,
    )


class _Sends:
    """This rank's messages, one for each peer; ``tally`` counts what MPI is handed."""

    def __init__(self, comm: MPI.Comm, sent: Message, tag: int) -> None:
        self._comm, self._tag, self._peers = comm, tag, sent.peers
        self._blocks = _unsigned_blocks(sent)
        self._messages = [np.empty_like(block) for block in self._blocks]
        self._lengths: Sequence[int] = ()
        self._requests: Sequence[MPI.Request] = ()
        self.tally = Tally()

    def squeeze(self) -> None:
        self._lengths = [squeeze(*both) for both in zip(self._blocks, self._messages, strict=True)]

    def start(self) -> None:
        used = [message[:n] for message, n in zip(self._messages, self._lengths, strict=True)]
        both = zip(used, self._peers, strict=True)
        self._requests = [self._comm.Isend(message, peer, self._tag) for message, peer in both]
        self.tally.bytes += sum(message.nbytes for message in used)

    def complete(self) -> None:
        MPI.Request.Waitall(self._requests)


class _Receives:
    """The messages for this rank, one from each peer."""

    def __init__(self, comm: MPI.Comm, received: Message, tag: int) -> None:
        self._blocks, self._type = _unsigned_blocks(received), received.type
        self._messages = [np.empty_like(block) for block in self._blocks]
        both = zip(self._messages, received.peers, strict=True)
        self._started = [comm.Recv_init(message, peer, tag) for message, peer in both]
        self._statuses = [MPI.Status() for _ in self._started]
        self._requests = Requests(self._started)

    def begin_calls(self) -> list[Call]:
        if not self._started:
            return []
        return [(EXCHANGE, function("MPI_Startall"), tuple(self._requests.all))]

    def complete(self) -> None:
        MPI.Request.Waitall(self._started, self._statuses)

    def expand(self) -> None:
        for message, status, block in zip(self._messages, self._statuses, self._blocks, strict=True):
            expand(message, status.Get_count(self._type), block)


def _unsigned_blocks(message: Message) -> list[np.ndarray]:
    """Each peer's block as unsigned integers as wide as its numbers."""
    unsigned = np.dtype(f"u{message.buffer.itemsize}")
    return [message.block(peer)[0].view(unsigned) for peer in message.peers]
