"""What a process takes of its machine before it can say anything, checked first.

MPICH ends a process by a signal where /dev/shm or the number of open files is too small.  Measured with the
MPICH wheel 5.0.2, 1 to 8 ranks on a machine: every rank takes 1.02 MiB of /dev/shm, and 5.5 MiB where 16 MiB
or more are left, as UCX then keeps its queues there, too; and 31 files, and one more for some of the others.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from repurpose_hpc.errors import UserError
from repurpose_hpc.mpi.launch import is_mpich_wheel

SHARED_MEMORY = Path("/dev/shm")
# Bytes of a rank.
RANK_BYTES = 1_100_000
RANK_BYTES_WITH_UCX = 5_500_000
# As much left in /dev/shm makes UCX take its part.  Ranks that find more and ranks that find less end by a
# signal together, so it must be there for the last one, too.
UCX_FROM = 16 << 20
UCX_FOR_SURE = 17_500_000
LARGER = "make it larger (mount -o remount,size=1g /dev/shm; docker run --shm-size=1g)"
# Open files of a process, with those of the commands, and more for each rank.
FILES = 40


class Space(NamedTuple):
    """A file system in memory: its size, and what is left, bytes."""

    size: int
    left: int


def check_limits(on_ranks: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to start where the process would die, and let it open as many files as it may.

    Args:
        on_ranks: whether MPI will be started.
        environment: of the process.

    Raises:
        UserError: too few open files, or too little of /dev/shm for the ranks on this machine.
    """
    ranks = ranks_here(environment) if on_ranks else 1
    check_files(ranks, most_files())
    if on_ranks and (space := shared_memory()) is not None:
        check_shared_memory(ranks, space)


def ranks_here(environment: Mapping[str, str]) -> int:
    """Ranks on this machine, as MPICH's launcher says; at least this one."""
    return int(environment.get("MPI_LOCALNRANKS", 1))


def most_files() -> int:
    """The most files that this process may open, which is the limit from now on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    if not unlimited and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft if unlimited else hard


def shared_memory() -> Space | None:
    """The space of /dev/shm, where MPICH takes of it; None: it does not, or there is none to ask."""
    if not is_mpich_wheel():
        return None
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def most_ranks(size: int) -> int:
    """How many ranks of MPICH can start where /dev/shm has this size, bytes."""
    if size < UCX_FROM:
        return size // RANK_BYTES
    return max(0, 1 + (size - UCX_FOR_SURE) // RANK_BYTES_WITH_UCX)


def check_files(ranks: int, most: int) -> None:
    """Refuse to start with fewer open files than ``ranks`` on this machine need.

    Raises:
        UserError: ``most`` is too small.
    """
    if most < FILES + ranks:
        raise UserError(
            f"expected a process to be allowed {FILES + ranks} open files, found {most}: raise the limit "
            "(ulimit -n 1024; docker run --ulimit nofile=1024)"
        )


def check_shared_memory(ranks: int, space: Space) -> None:
    """Refuse to start with a /dev/shm that is too small for ``ranks`` on this machine, or full.

    Others of the job may have begun to take their part, so that what is left is compared with one rank's.

    Raises:
        UserError: see above.
    """
    if ranks > most_ranks(space.size):
        raise UserError(
            f"expected shared memory (/dev/shm) for {ranks} ranks on this machine, found {mib(space.size)}, "
            f"enough for {most_ranks(space.size)}: {LARGER}, or start fewer ranks here"
        )
    if space.left < RANK_BYTES:
        raise UserError(
            f"expected {mib(RANK_BYTES)} of shared memory (/dev/shm) for a rank, found {mib(space.left)} "
            f"left of {mib(space.size)}: remove what killed jobs have left there (ls /dev/shm), or {LARGER}"
        )


def mib(size: float) -> str:
    """Bytes, for people."""
    return f"{size / 2**20:,.1f} MiB"
