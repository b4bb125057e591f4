"""A rank's side of one exchange of a batch, as MPI takes it, and the calls that carry it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.runtime.buffers import Buffer, Part
from repurpose_hpc.runtime.calls import Call
from repurpose_hpc.runtime.schedule.mpi_functions import handle

if TYPE_CHECKING:
    from mpi4py import MPI

# As MPI counts them.
MOST_NUMBERS = np.iinfo(np.intc).max
_MPI_NAMES: dict[np.dtype, str] = {
    np.dtype(np.float32): "FLOAT",
    np.dtype(np.float64): "DOUBLE",
    np.dtype(np.uint16): "UINT16_T",
    np.dtype(np.int16): "INT16_T",
    np.dtype(np.int8): "INT8_T",
}


def mpi_type(dtype: np.dtype) -> MPI.Datatype:
    """MPI's type of numbers of ``dtype``."""
    from mpi4py import MPI

    return getattr(MPI, _MPI_NAMES[dtype])


def mpi_types() -> list[MPI.Datatype]:
    """All types of numbers that exchanges have."""
    return [mpi_type(dtype) for dtype in _MPI_NAMES]


@dataclass(frozen=True, eq=False)
class Message:
    """Blocks that a rank sends to all others, or receives from them, in one exchange of a batch.

    Attributes:
        buffer: one-dimensional.
        counts, displacements: of each rank's block, (R,) of C's int.
        type: of the numbers.
    """

    buffer: np.ndarray
    counts: np.ndarray
    displacements: np.ndarray
    type: MPI.Datatype

    @classmethod
    def of(cls, buffer: Buffer, items: np.ndarray, part: Part) -> Message:
        """Blocks of ``items`` (R,) rows of a buffer for each rank, for a part of a batch.

        Raises:
            UserError: there are more numbers than MPI can count.
        """
        counts = items * (part.samples * buffer.values)
        if counts.sum() > MOST_NUMBERS:
            raise UserError(
                f"expected at most {MOST_NUMBERS} numbers in an exchange, as MPI counts them, found "
                f"{counts.sum()}; take smaller batches, or more micro-batches"
            )
        displacements = (np.cumsum(counts) - counts).astype(np.intc)
        numbers = buffer.view(part).reshape(-1)
        return cls(numbers, counts.astype(np.intc), displacements, mpi_type(numbers.dtype))

    @property
    def peers(self) -> list[int]:
        """The ranks with a block."""
        return np.flatnonzero(self.counts).tolist()

    def of_peers(self) -> Message:
        """The same without the ranks that have no block."""
        peers = self.peers
        return replace(self, counts=self.counts[peers], displacements=self.displacements[peers])

    def numbers(self, rank: int) -> np.ndarray:
        """The block of one rank."""
        first = self.displacements[rank]
        return self.buffer[first : first + self.counts[rank]]

    def block(self, rank: int) -> tuple[np.ndarray, MPI.Datatype]:
        """The block of one rank, as mpi4py takes it."""
        return self.numbers(rank), self.type

    def specification(self) -> tuple[np.ndarray, list[int], list[int], MPI.Datatype]:
        """All blocks, as mpi4py takes them."""
        return self.buffer, self.counts.tolist(), self.displacements.tolist(), self.type

    def arguments(self) -> tuple[int, ...]:
        """All blocks, as C takes them."""
        lists = self.counts.ctypes.data, self.displacements.ctypes.data
        return self.buffer.ctypes.data, *lists, handle(self.type)


@dataclass(frozen=True, eq=False)
class Request:
    """An exchange of one batch size, ready to be made again and again.

    Attributes:
        begin: calls when a forward begins.
        post: calls when the items are packed.
        wait: calls when what the others sent is needed.
        uses: objects whose addresses the calls have.
        free: calls before items are packed again.
        renew: calls when what the others sent has been used.
        end: calls when a forward ends.
        progress: calls that let MPI go on with large messages, while something is computed; none if all
            are small.
    """

    begin: list[Call]
    post: list[Call]
    wait: list[Call]
    uses: tuple[object, ...] = ()
    free: list[Call] = field(default_factory=list)
    renew: list[Call] = field(default_factory=list)
    end: list[Call] = field(default_factory=list)
    progress: list[Call] = field(default_factory=list)
