"""The ways in which an exchange can be carried.

Rank p has a block of its send buffer for each rank q that needs something, and q a block of its
receive buffer for it (see ``exchange``).  One exchange is one message for each such pair, whichever way:

- ``alltoallv``: MPI_Alltoallv when the rank would wait; nothing happens before.
- ``ialltoallv``: MPI_Ialltoallv when the items are packed, completed when they are needed.
- ``persistent``: the same, set up once (MPI_Alltoallv_init, of MPI 4).
- ``neighbor``: MPI_Ineighbor_alltoallv over the graph of the pairs; ranks do not look at those that they
  exchange nothing with.
- ``p2p``: persistent sends and receives.  All receives of a forward are started when it begins: by then
  what came in the last one has been used.  A tag for each exchange keeps them apart.
- ``sparse``: the same, but zeros are left out of the messages (see ``exchanges.sparse``).
- ``shared``: no messages, but memory that all ranks of one node see (see ``exchanges.shared``).

Every way is prepared once for a batch size.  It is then a few calls of MPI functions, or of kernels, with
arguments that stay the same, so that compiled code can make them; only ``sparse``, whose messages have other
lengths every time, makes them in Python.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mpi4py import MPI

from repurpose_hpc.runtime.exchange.messages import Carrier, Message, Ranks
from repurpose_hpc.runtime.exchange.transports.shared import on_one_node, shared
from repurpose_hpc.runtime.exchange.transports.sparse import sparse
from repurpose_hpc.runtime.lowering.blocks import EXCHANGE, WAIT, Call
from repurpose_hpc.runtime.schedule.mpi_functions import Requests, Span, function, handle

DEFAULT_WAY, SPARSE, SHARED = "ialltoallv", "sparse", "shared"


def _alltoallv(ranks: Ranks, sent: Message, received: Message, tag: int) -> Carrier:
    arguments = *sent.arguments(), *received.arguments(), handle(ranks.comm)
    return Carrier([], [], [(WAIT, function("MPI_Alltoallv"), arguments)], (sent, received))


def _ialltoallv(ranks: Ranks, sent: Message, received: Message, tag: int) -> Carrier:
    return _started("MPI_Ialltoallv", ranks.comm, sent, received)


def _neighbor(ranks: Ranks, sent: Message, received: Message, tag: int) -> Carrier:
    graph = ranks.graph(received.peers, sent.peers)
    return _started("MPI_Ineighbor_alltoallv", graph, sent.of_peers(), received.of_peers())


def _started(name: str, comm: MPI.Comm, sent: Message, received: Message) -> Carrier:
    """A collective that starts and returns a request."""
    requests = Requests([MPI.REQUEST_NULL])
    arguments = *sent.arguments(), *received.arguments(), handle(comm), requests.all.address
    post = EXCHANGE, function(name), arguments
    return Carrier([], [post], [_waiting(requests)], (sent, received, requests))


def _persistent(ranks: Ranks, sent: Message, received: Message, tag: int) -> Carrier:
    requests = Requests([ranks.comm.Alltoallv_init(sent.specification(), received.specification())])
    return Carrier([], [_starting(requests.all)], [_waiting(requests)], (sent, received, requests))


def _p2p(ranks: Ranks, sent: Message, received: Message, tag: int) -> Carrier:
    receives = [ranks.comm.Recv_init(received.block(rank), rank, tag) for rank in received.peers]
    sends = [ranks.comm.Send_init(sent.block(rank), rank, tag) for rank in sent.peers]
    requests = Requests(receives + sends)
    first, second = requests.part(0, len(receives)), requests.part(len(receives), len(sends))
    return Carrier(
        [_starting(first)] if receives else [],
        [_starting(second)] if sends else [],
        [_waiting(requests)] if receives or sends else [],
        (sent, received, requests),
    )


def _starting(requests: Span) -> Call:
    return EXCHANGE, function("MPI_Startall"), tuple(requests)


def _waiting(requests: Requests) -> Call:
    return WAIT, function("MPI_Waitall"), (*requests.all, requests.statuses)


CARRIERS: dict[str, Callable[[Ranks, Message, Message, int], Carrier]] = {
    "ialltoallv": _ialltoallv,
    "alltoallv": _alltoallv,
    "persistent": _persistent,
    "neighbor": _neighbor,
    "p2p": _p2p,
    SPARSE: sparse,
    SHARED: shared,
}


def available(comm: MPI.Comm) -> list[str]:
    """The ways that this MPI has and that the ranks can use where they are; collective, the same on all."""
    missing = set() if _has_persistent() else {"persistent"}
    if not on_one_node(comm):
        missing.add(SHARED)
    return [way for way in CARRIERS if way not in missing]


def _has_persistent() -> bool:
    nothing = [np.empty(0, np.float32), [0], [0], MPI.FLOAT]
    try:
        MPI.COMM_SELF.Alltoallv_init(nothing, nothing).Free()
    except (NotImplementedError, MPI.Exception):
        return False
    return True
