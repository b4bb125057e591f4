"""The transport ``p2p``: persistent sends and receives."""

from __future__ import annotations

from repurpose_hpc.runtime.buffers import Part
from repurpose_hpc.runtime.exchange.exchange import Exchange
from repurpose_hpc.runtime.exchange.messages import Message, Request
from repurpose_hpc.runtime.exchange.transport import Transport, start_all, transport, wait_all
from repurpose_hpc.runtime.schedule.mpi_functions import Requests


@transport("p2p")
class P2p(Transport):
    """Persistent sends and receives, one for each pair of ranks.

    All receives of a forward are started when it begins: by then what came in the last one has been used.
    A tag for each exchange and part keeps them apart.
    """

    def _request(self, exchange: Exchange, part: Part, sent: Message, received: Message) -> Request:
        tag = self.tag(exchange, part)
        receives = [self.comm.Recv_init(received.block(rank), rank, tag) for rank in received.peers]
        sends = [self.comm.Send_init(sent.block(rank), rank, tag) for rank in sent.peers]
        requests = Requests(receives + sends)
        receiving, sending = requests.part(0, len(receives)), requests.part(len(receives), len(sends))
        return Request(
            [start_all(receiving)] if receives else [],
            [start_all(sending)] if sends else [],
            [wait_all(requests)] if receives or sends else [],
            (sent, received, requests),
        )
