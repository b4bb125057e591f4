"""The transport ``ialltoallv``: MPI_Ialltoallv."""

from __future__ import annotations

from repurpose_hpc.runtime.buffers import Part
from repurpose_hpc.runtime.exchange.exchange import Exchange
from repurpose_hpc.runtime.exchange.messages import Message, Request
from repurpose_hpc.runtime.exchange.transport import Transport, nonblocking, transport


@transport("ialltoallv")
class Ialltoallv(Transport):
    """MPI_Ialltoallv when the items are packed, completed when they are needed."""

    def _request(self, exchange: Exchange, part: Part, sent: Message, received: Message) -> Request:
        return self.unhurried(nonblocking("MPI_Ialltoallv", self.comm, sent, received), sent, received)
