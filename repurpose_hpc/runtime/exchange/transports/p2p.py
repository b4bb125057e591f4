"""The transport ``p2p``: persistent sends and receives."""

from __future__ import annotations

from repurpose_hpc.runtime.buffers import Part
from repurpose_hpc.runtime.exchange.exchange import Exchange
from repurpose_hpc.runtime.exchange.messages import Message, Request
from repurpose_hpc.runtime.exchange.transport import (
    Transport,
    is_large,
    start_all,
    transport,
    wait_all,
)
from repurpose_hpc.runtime.schedule.mpi_functions import Requests


@transport("p2p")
class P2p(Transport):
    """Persistent sends and receives, one for each pair of ranks.

    All receives of a forward are started when it begins: by then what came in the last one has been used.
    Those of large messages are started as soon as it has been, if the next forward is of the same schedule.
    A tag for each exchange and part keeps them apart.
    """

    def _request(self, exchange: Exchange, part: Part, sent: Message, received: Message) -> Request:
        tag = self.tag(exchange, part)
        receives = [self.comm.Recv_init(received.block(rank), rank, tag) for rank in received.peers]
        sends = [self.comm.Send_init(sent.block(rank), rank, tag) for rank in sent.peers]
        requests = Requests(receives + sends)
        receiving, sending = requests.part(0, len(receives)), requests.part(len(receives), len(sends))
        begin = [start_all(receiving)] if receives else []
        post = [start_all(sending)] if sends else []
        if not is_large(sent, received):
            wait = [wait_all(requests)] if receives or sends else []
            return Request(begin, post, wait, (sent, received, requests))
        wait = [wait_all(requests, receiving)] if receives else []
        complete = [wait_all(requests, sending)] if sends else []
        return self.apart(Request(begin, post, wait, (sent, received, requests)), complete)
