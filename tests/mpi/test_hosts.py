"""Where ranks are: on this machine, all of them on one host."""

import os

import pytest
from mpi4py import MPI

from repurpose_hpc.mpi import hosts
from repurpose_hpc.mpi.hosts import Hosts


@pytest.mark.mpi
def test_ranks_of_one_machine_share_its_cores():
    comm = MPI.COMM_WORLD
    found = Hosts(comm)
    assert found.count == 1
    cores = frozenset.union(*comm.allgather(frozenset(os.sched_getaffinity(0))))
    assert found.oversubscribed == (comm.size > len(cores))


@pytest.mark.mpi(min_size=2)
def test_every_host_counts_once(monkeypatch):
    comm = MPI.COMM_WORLD
    networks = [rank // 2 for rank in range(comm.size)]
    monkeypatch.setattr(hosts, "_network", lambda: networks[comm.rank])
    found = Hosts(comm)
    assert found.count == len(set(networks))
    counters = (
        "header\nheader\n lo: 5 5 0 0 0 0 0 0 7 7\n a: 5 5 0 0 0 0 0 0 100 3\n b:5 5 0 0 0 0 0 0 10 1\n"
    )
    monkeypatch.setattr(hosts, "_INTERFACES", _Text(counters))
    sent = found.sent()
    assert (sent is None) == (comm.rank > 0)
    if comm.rank == 0:
        assert sent.tolist() == [110 * found.count, 4 * found.count]


class _Text:
    def __init__(self, text: str) -> None:
        self.text = text

    def exists(self) -> bool:
        return True

    def read_text(self) -> str:
        return self.text
