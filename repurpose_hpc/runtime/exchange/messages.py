"""What a rank sends and receives in one exchange of a batch, and the calls that carry it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from mpi4py import MPI

from repurpose_hpc.runtime.lowering.blocks import Call
from repurpose_hpc.runtime.schedule.mpi_functions import handle

if TYPE_CHECKING:
    from repurpose_hpc.runtime.exchange.transports.shared import Outbox


@dataclass(frozen=True, eq=False)
class Message:
    """What a rank sends to all others, or receives from them, in one exchange of a batch.

    Attributes:
        buffer: one-dimensional.
        counts, displacements: of each rank's block, (R,) of C's int.
        type: of the numbers.
        part: of the batch, its number.
        outbox: of one that is sent from memory that the receivers see.
    """

    buffer: np.ndarray
    counts: np.ndarray
    displacements: np.ndarray
    type: MPI.Datatype
    part: int = 0
    outbox: Outbox | None = None

    @property
    def peers(self) -> list[int]:
        """The ranks with a block."""
        return np.flatnonzero(self.counts).tolist()

    def of_peers(self) -> Message:
        """The same without the ranks that have no block."""
        peers = self.peers
        return replace(self, counts=self.counts[peers], displacements=self.displacements[peers])

    def block(self, rank: int) -> list:
        """That of one rank, as mpi4py takes it."""
        first = self.displacements[rank]
        return [self.buffer[first : first + self.counts[rank]], self.type]

    def specification(self) -> list:
        """All, as mpi4py takes it."""
        return [self.buffer, self.counts.tolist(), self.displacements.tolist(), self.type]

    def arguments(self) -> tuple[int, ...]:
        """All, as C takes it."""
        lists = self.counts.ctypes.data, self.displacements.ctypes.data
        return self.buffer.ctypes.data, *lists, handle(self.type)


@dataclass
class Tally:
    """Bytes that were handed to MPI."""

    bytes: int = 0


@dataclass(frozen=True, eq=False)
class Carrier:
    """An exchange of one batch size, ready to be made again and again.

    Attributes:
        begin: calls when a forward begins.
        post: calls when the items are packed.
        wait: calls when what the others sent is needed.
        uses: what the calls have the addresses of.
        tally: of a way that sends less than the whole blocks: what it has sent.
    """

    begin: list[Call]
    post: list[Call]
    wait: list[Call]
    uses: tuple = ()
    tally: Tally | None = None


class Ranks:
    """The ranks that exchange something.

    Attributes:
        comm: of the job.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        self.comm = comm
        self._graph: MPI.Comm | None = None

    def graph(self, sources: Sequence[int], destinations: Sequence[int]) -> MPI.Comm:
        """A communicator in which this rank receives from the one and sends to the other; collective.

        It is made once: whoever asks asks for the same.
        """
        if self._graph is None:
            self._graph = self.comm.Create_dist_graph_adjacent(sources, destinations)
        return self._graph

    def free(self) -> None:
        """Give it back, if there is one; collective; carriers with it must not be used any more."""
        if self._graph is not None:
            self._graph.Free()
            self._graph = None
