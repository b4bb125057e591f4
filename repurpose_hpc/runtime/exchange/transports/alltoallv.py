"""The transport ``alltoallv``: MPI_Alltoallv."""

from __future__ import annotations

from repurpose_hpc.runtime.buffers import Part
from repurpose_hpc.runtime.calls import WAIT
from repurpose_hpc.runtime.exchange.exchange import Exchange
from repurpose_hpc.runtime.exchange.messages import Message, Request
from repurpose_hpc.runtime.exchange.transport import Transport, transport
from repurpose_hpc.runtime.schedule.mpi_functions import function, handle


@transport("alltoallv")
class Alltoallv(Transport):
    """MPI_Alltoallv when the rank would wait; nothing happens before."""

    def _request(self, exchange: Exchange, part: Part, sent: Message, received: Message) -> Request:
        arguments = *sent.arguments(), *received.arguments(), handle(self.comm)
        return Request([], [], [(WAIT, function("MPI_Alltoallv"), arguments)], (sent, received))
