"""The transport ``sparse``: what is zero is not sent.

Every rank sends one message to each rank that needs something from it, as with every other transport, and
receives one from each rank that has something for it.  After ReLU many numbers of a block are zero.
The sender looks at them, anew for every batch, and sends the shorter of two forms of the block: all of it,
or a bit for each number and the numbers that are not zero (see ``kernels.zeros``).  The receiver has room
for all of it.  The message that comes may be shorter; its length says which form it has.  What is
in the receive buffer in the end has the same bits as after any other transport.

Receives are persistent, and all of a forward are started when it begins, as those of ``p2p`` are.  Sends are
not, since their lengths change.  Messages have memory of their own, once more that of the buffers.

This is for slow networks: Python makes the calls, and every number is looked at twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.kernels import expand, squeeze
from repurpose_hpc.runtime.buffers import Part
from repurpose_hpc.runtime.calls import EXCHANGE, PACK, WAIT, Call
from repurpose_hpc.runtime.exchange.exchange import Exchange
from repurpose_hpc.runtime.exchange.messages import Message, Request
from repurpose_hpc.runtime.exchange.transport import Tally, Transport, is_large, start_all, transport
from repurpose_hpc.runtime.schedule.mpi_functions import Requests

if TYPE_CHECKING:
    from mpi4py import MPI


@transport("sparse")
class Sparse(Transport):
    """As ``p2p``, but zeros are left out of the messages."""

    is_replayable = False

    def __init__(self, exchanges: Sequence[Exchange], comm: MPI.Comm, parts: int = 1) -> None:
        """Begins to count the bytes of messages."""
        super().__init__(exchanges, comm, parts)
        self.tally: Tally = Tally()

    def _request(self, exchange: Exchange, part: Part, sent: Message, received: Message) -> Request:
        tag = self.tag(exchange, part)
        sends, receives = _Sends(self.comm, sent, tag, self.tally), _Receives(self.comm, received, tag)
        begin, complete = receives.begin_calls(), sends.complete_calls()
        post: list[Call] = [(PACK, sends.squeeze, ()), (EXCHANGE, sends.start, ())]
        wait: list[Call] = [(WAIT, receives.complete, ()), (PACK, receives.expand, ())]
        request = Request(begin, post, wait, (sends, receives))
        if is_large(sent, received):
            return self.apart(request, complete)
        return replace(request, wait=[*wait, *complete])


class _Sends:
    """This rank's messages, one for each peer; ``tally`` counts what MPI is handed."""

    def __init__(self, comm: MPI.Comm, sent: Message, tag: int, tally: Tally) -> None:
        from mpi4py import MPI

        self._wait_all = MPI.Request.Waitall
        self._comm, self._tag, self._peers = comm, tag, sent.peers
        self._blocks = _unsigned_blocks(sent)
        self._messages = [np.empty_like(block) for block in self._blocks]
        self._lengths: Sequence[int] = ()
        self._requests: Sequence[MPI.Request] = ()
        self.tally = tally

    def squeeze(self) -> None:
        self._lengths = [squeeze(*pair) for pair in zip(self._blocks, self._messages, strict=True)]

    def start(self) -> None:
        messages = [message[:n] for message, n in zip(self._messages, self._lengths, strict=True)]
        pairs = zip(messages, self._peers, strict=True)
        self._requests = [self._comm.Isend(message, peer, self._tag) for message, peer in pairs]
        self.tally.bytes += sum(message.nbytes for message in messages)

    def complete_calls(self) -> list[Call]:
        return [(WAIT, self._complete, ())]

    def _complete(self) -> None:
        self._wait_all(self._requests)


class _Receives:
    """The messages for this rank, one from each peer."""

    def __init__(self, comm: MPI.Comm, received: Message, tag: int) -> None:
        from mpi4py import MPI

        self._wait_all = MPI.Request.Waitall
        self._blocks, self._type = _unsigned_blocks(received), received.type
        self._messages = [np.empty_like(block) for block in self._blocks]
        pairs = zip(self._messages, received.peers, strict=True)
        self._started = [comm.Recv_init(message, peer, tag) for message, peer in pairs]
        self._statuses = [MPI.Status() for _ in self._started]
        self._requests = Requests(self._started)

    def begin_calls(self) -> list[Call]:
        return [start_all(self._requests.span)] if self._started else []

    def complete(self) -> None:
        self._wait_all(self._started, self._statuses)

    def expand(self) -> None:
        for message, status, block in zip(self._messages, self._statuses, self._blocks, strict=True):
            expand(message, status.Get_count(self._type), block)


def _unsigned_blocks(message: Message) -> list[np.ndarray]:
    """Each peer's block as unsigned integers as wide as its numbers."""
    unsigned = np.dtype(f"u{message.buffer.itemsize}")
    return [message.numbers(peer).view(unsigned) for peer in message.peers]
