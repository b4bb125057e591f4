"""The transport ``neighbor``: MPI_Ineighbor_alltoallv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from repurpose_hpc.runtime.buffers import Part
from repurpose_hpc.runtime.exchange.exchange import Exchange
from repurpose_hpc.runtime.exchange.messages import Message, Request
from repurpose_hpc.runtime.exchange.transport import Transport, nonblocking, transport

if TYPE_CHECKING:
    from mpi4py import MPI


@transport("neighbor")
class Neighbor(Transport):
    """MPI_Ineighbor_alltoallv over the graph of the pairs that exchange anything.

    Ranks do not look at those that they exchange nothing with.
    """

    def __init__(self, exchanges: Sequence[Exchange], comm: MPI.Comm, parts: int = 1) -> None:
        """Makes a communicator for each exchange; collective."""
        super().__init__(exchanges, comm, parts)
        self._graphs: dict[Exchange, MPI.Comm] = {}
        for exchange in exchanges:
            sources, destinations = (
                np.flatnonzero(items).tolist() for items in (exchange.received, exchange.sent)
            )
            # Ranks of a program are in one group.
            group = cast("MPI.Intracomm", comm)
            self._graphs[exchange] = group.Create_dist_graph_adjacent(sources, destinations)

    def _request(self, exchange: Exchange, part: Part, sent: Message, received: Message) -> Request:
        graph = self._graphs[exchange]
        request = nonblocking("MPI_Ineighbor_alltoallv", graph, sent.of_peers(), received.of_peers())
        return self.unhurried(request, sent, received)

    def free(self) -> None:
        """Free the communicators; collective."""
        for graph in self._graphs.values():
            graph.Free()
        self._graphs.clear()
        super().free()
