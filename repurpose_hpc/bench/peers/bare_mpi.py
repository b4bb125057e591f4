"""Every rank sends a block of its own to every other one, by MPI alone through mpi4py.

A function of (comm, send, receive) makes an exchange: it returns the call.  ``send[q]`` (P, values) goes to
rank q, and ``receive[p]`` comes from rank p.  A rank sends nothing to itself, but for ``allgather``, which
brings every rank's first block to all.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mpi4py import MPI

MakeExchange = Callable[[MPI.Intracomm, np.ndarray, np.ndarray], Callable[[], object]]


def allgather(comm: MPI.Intracomm, send: np.ndarray, receive: np.ndarray) -> Callable[[], object]:
    """MPI_Allgather."""
    return lambda: comm.Allgather(send[0], receive)


def alltoallv(comm: MPI.Intracomm, send: np.ndarray, receive: np.ndarray) -> Callable[[], object]:
    """MPI_Alltoallv."""
    arguments = _lists(comm, send), _lists(comm, receive)
    return lambda: comm.Alltoallv(*arguments)


def ialltoallv(comm: MPI.Intracomm, send: np.ndarray, receive: np.ndarray) -> Callable[[], object]:
    """MPI_Ialltoallv and MPI_Wait."""
    arguments = _lists(comm, send), _lists(comm, receive)
    return lambda: comm.Ialltoallv(*arguments).Wait()


def persistent(comm: MPI.Intracomm, send: np.ndarray, receive: np.ndarray) -> Callable[[], object]:
    """MPI_Alltoallv_init once, then MPI_Start and MPI_Wait."""
    return _Requests([comm.Alltoallv_init(_lists(comm, send), _lists(comm, receive))])


def neighbor(comm: MPI.Intracomm, send: np.ndarray, receive: np.ndarray) -> Callable[[], object]:
    """MPI_Neighbor_alltoallv on a distributed graph in which all others are neighbours."""
    others = _others(comm)
    graph = comm.Create_dist_graph_adjacent(others, others)
    counts = [send.shape[1]] * len(others)
    places = [send.shape[1] * other for other in others]
    arguments = [send, counts, places, _type(send)], [receive, counts, places, _type(send)]
    return lambda: graph.Neighbor_alltoallv(*arguments)


def point_to_point(comm: MPI.Intracomm, send: np.ndarray, receive: np.ndarray) -> Callable[[], object]:
    """MPI_Irecv and MPI_Isend for every other rank, and MPI_Waitall."""
    others = _others(comm)

    def call() -> None:
        requests = [comm.Irecv(receive[other], other) for other in others]
        requests += [comm.Isend(send[other], other) for other in others]
        MPI.Request.Waitall(requests)

    return call


def point_to_point_persistent(
    comm: MPI.Intracomm, send: np.ndarray, receive: np.ndarray
) -> Callable[[], object]:
    """MPI_Recv_init and MPI_Send_init once, then MPI_Startall and MPI_Waitall."""
    others = _others(comm)
    requests = [comm.Recv_init(receive[other], other) for other in others]
    return _Requests(requests + [comm.Send_init(send[other], other) for other in others])


EXCHANGES: dict[str, MakeExchange] = {
    "allgather": allgather,
    "alltoallv": alltoallv,
    "ialltoallv": ialltoallv,
    "persistent": persistent,
    "neighbor": neighbor,
    "p2p": point_to_point,
    "p2p_persistent": point_to_point_persistent,
}


class _Requests:
    """Persistent requests as a call; they are freed with it."""

    def __init__(self, requests: list[MPI.Prequest]) -> None:
        self._requests = requests

    def __call__(self) -> None:
        MPI.Prequest.Startall(self._requests)
        MPI.Request.Waitall(self._requests)

    def __del__(self) -> None:
        for request in self._requests:
            request.Free()


def _others(comm: MPI.Comm) -> list[int]:
    return [rank for rank in range(comm.size) if rank != comm.rank]


def _lists(comm: MPI.Comm, blocks: np.ndarray) -> list:
    """Buffer, counts, displacements and type of all blocks but this rank's own."""
    values = blocks.shape[1]
    counts = [0 if rank == comm.rank else values for rank in range(comm.size)]
    return [blocks, counts, [values * rank for rank in range(comm.size)], _type(blocks)]


def _type(values: np.ndarray) -> MPI.Datatype:
    return MPI._typedict[values.dtype.char]
