"""The transport ``persistent``: MPI_Alltoallv_init, of MPI 4."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.runtime.buffers import Part
from repurpose_hpc.runtime.exchange.exchange import Exchange
from repurpose_hpc.runtime.exchange.messages import Message, Request
from repurpose_hpc.runtime.exchange.transport import Transport, start_all, transport, wait_all
from repurpose_hpc.runtime.schedule.mpi_functions import Requests

if TYPE_CHECKING:
    from mpi4py import MPI


@transport("persistent")
class Persistent(Transport):
    """As ``ialltoallv``, set up once for each batch size (MPI_Alltoallv_init, of MPI 4).

    It waits for sends where it waits for receives: MPICH 5.0 hangs in MPI_Waitall on a request of this kind
    that was never started.
    """

    @classmethod
    def is_available(cls, comm: MPI.Comm) -> bool:
        """Tell whether this MPI has persistent collectives."""
        from mpi4py import MPI

        empty = [np.empty(0, np.float32), [0], [0], MPI.FLOAT]
        try:
            MPI.COMM_SELF.Alltoallv_init(empty, empty).Free()
        except (NotImplementedError, MPI.Exception):
            return False
        return True

    def _request(self, exchange: Exchange, part: Part, sent: Message, received: Message) -> Request:
        requests = Requests([self.comm.Alltoallv_init(sent.specification(), received.specification())])
        return Request([], [start_all(requests.span)], [wait_all(requests)], (sent, received, requests))
