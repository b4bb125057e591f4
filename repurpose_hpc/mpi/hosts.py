"""Places of the ranks of a job: machines, cores, network interfaces.

Asked of the kernel, not of MPI: hosts that are network namespaces of one machine share its cores.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mpi4py import MPI

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NETWORK = Path("/proc/self/ns/net")
_INTERFACES = Path("/proc/self/net/dev")


class Hosts:
    """The hosts of a communicator's ranks; made collectively.

    A host is what has network interfaces of its own; a machine may be several.

    Attributes:
        count: how many hosts.
        oversubscribed: whether a machine has more ranks than cores that they may use.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        place = machine(), _network()
        hosts = comm.allgather(place)
        self.count = len(set(hosts))
        self.oversubscribed = cores_per_rank(comm) == 0
        self._comm, self._speaks = comm, hosts.index(place) == comm.rank

    def sent(self) -> np.ndarray | None:
        """Bytes and packets that have left the interfaces of all hosts, those of other programs included.

        Collective; what was sent before the call is counted, what is sent after it is not.

        Returns:
            (2,) int64 on the root, None elsewhere.
        """
        self._comm.Barrier()
        counts = _interfaces() if self._speaks else np.zeros(2, np.int64)
        self._comm.Barrier()
        total = np.empty_like(counts) if self._comm.rank == 0 else None
        self._comm.Reduce(counts, total, root=0)
        return total


def cores_per_rank(comm: MPI.Comm) -> int:
    """Number of cores that each rank can have to itself, where they are fewest; collective, the same on all.

    0: a machine has more ranks than cores that they may use.
    """
    ranks = comm.allgather((machine(), os.sched_getaffinity(0)))
    fewest = min(len(cores) for _, cores in ranks)
    for machine_name in {machine_name for machine_name, _ in ranks}:
        core_sets = [cores for rank_machine, cores in ranks if rank_machine == machine_name]
        fewest = min(fewest, len(set().union(*core_sets)) // len(core_sets))
    return fewest


def shared_cores(comm: MPI.Comm) -> int | None:
    """Cores that the ranks may use of the machine that all are on; None: there are several; collective."""
    ranks = comm.allgather((machine(), os.sched_getaffinity(0)))
    if len({machine_name for machine_name, _ in ranks}) > 1:
        return None
    return len(set().union(*(cores for _, cores in ranks)))


def machine() -> str:
    """Name that tells the machines of a job apart, but not network namespaces of one machine."""
    if _BOOT.exists():
        return _BOOT.read_text()
    from mpi4py import MPI

    return MPI.Get_processor_name()


def _network() -> int:
    """Number that tells the network namespaces of a machine apart."""
    return os.stat(_NETWORK).st_ino if _NETWORK.exists() else 0


def _interfaces() -> np.ndarray:
    """Bytes and packets sent by all interfaces but the loopback, (2,) int64."""
    lines = _INTERFACES.read_text().splitlines()[2:] if _INTERFACES.exists() else []
    rows = [line.replace(":", " ").split() for line in lines]
    counts = [(int(columns[9]), int(columns[10])) for columns in rows if columns[0] != "lo"]
    return np.array(counts, np.int64).reshape(-1, 2).sum(axis=0)
