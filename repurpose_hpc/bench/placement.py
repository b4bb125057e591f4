"""Cores of the ranks: one each while there are enough."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpi4py import MPI

from repurpose_hpc.mpi.hosts import machine

_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


class Placement:
    """The cores of this rank and of its machine; made collectively, and every rank is then pinned.

    A core of its own is a hardware thread that shares nothing with those of other ranks, as far as
    there are enough; with more ranks than hardware threads nobody is pinned.

    Attributes:
        cores: hardware threads that the ranks of this machine may use, one of each core first.
        physical: how many cores these are.
        ranks: on this machine.
        pinned: whether this rank has a hardware thread of its own.
        oversubscribed: whether any machine has more ranks than cores; the same on all ranks.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        ranks = comm.allgather((machine(), os.sched_getaffinity(0)))
        host_ranks = [rank for rank, (name, _) in enumerate(ranks) if name == machine()]
        allowed = set().union(*(ranks[rank][1] for rank in host_ranks))
        siblings = {cpu: _siblings(cpu) & allowed for cpu in allowed}
        self.cores = sorted(allowed, key=lambda cpu: (sorted(siblings[cpu]).index(cpu), cpu))
        self.physical = len({min(threads) for threads in siblings.values()})
        self.ranks = len(host_ranks)
        self.pinned = len(host_ranks) <= len(self.cores)
        self.oversubscribed = comm.allreduce(len(host_ranks) > self.physical, MPI.LOR)
        if self.pinned:
            os.sched_setaffinity(0, {self.cores[host_ranks.index(comm.rank)]})

    @contextmanager
    def all_cores(self) -> Iterator[None]:
        """A block that may use all of them; threads that it starts keep them."""
        affinity = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, affinity)


def _siblings(cpu: int) -> set[int]:
    """The hardware threads of the core of ``cpu``."""
    path = Path(_SIBLINGS.format(cpu))
    if not path.exists():
        return {cpu}
    spans = [span.split("-") for span in path.read_text().strip().split(",")]
    return {number for span in spans for number in range(int(span[0]), int(span[-1]) + 1)} | {cpu}
