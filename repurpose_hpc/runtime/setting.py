"""What all operations of a program have in common."""

from __future__ import annotations

from typing import NamedTuple

from mpi4py import MPI

from repurpose_hpc.model.comm_dtype import EXACT
from repurpose_hpc.runtime.buffers import Scratch
from repurpose_hpc.runtime.hosting import Hosting


class Formats(NamedTuple):
    """Of dense weights in memory and of ghosts on their way, each one of ``model.wire.WIRES``."""

    weights: str = EXACT
    wire: str = EXACT


EXACTLY = Formats()


class Setting(NamedTuple):
    """What all mixings of a program have in common.

    Attributes:
        hosting: of the program.
        comm: its ranks.
        max_batch: most samples of a forward.
        scratch: memory that operations use one after the other.
        formats: of weights and ghosts.
        threads: that share the rows of a kernel.
    """

    hosting: Hosting
    comm: MPI.Comm
    max_batch: int
    scratch: Scratch
    formats: Formats
    threads: int
