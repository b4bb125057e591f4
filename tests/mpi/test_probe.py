"""Measuring a machine: every rank has the same, and the forecast can read it."""

import math
import os
from dataclasses import asdict
from pathlib import Path

import pytest
from mpi4py import MPI

from repurpose_hpc.commands import probe as probe_command
from repurpose_hpc.commands.start import RankContext
from repurpose_hpc.forecast.machine import THIS_FILE, parse_machine, read_machine
from repurpose_hpc.probe import links, rates


@pytest.fixture
def quick(monkeypatch):
    """Few and small measurements: what they say is not looked at."""
    if MPI.COMM_WORLD.size > 4:
        pytest.skip("more ranks wait longer for each other and show nothing new")
    link = {"ROUNDS": 1, "ROUND_SECONDS": 0, "MANY_VALUES": 1 << 12, "IN_A_ROW": 1, "PAUSE_SECONDS": 0}
    for name, value in link.items():
        monkeypatch.setattr(links, name, value)
    tables = {"ROWS": (1, 64), "COLUMNS": (1, 512), "SPARSE_ROWS": (4,), "SPARSE_COLUMNS": (1, 8)}
    tables |= {"MAP_ROWS": (4,), "MAP_SIDES": (4, 7), "WORKING_SETS": (1 << 16,)}
    all_ranks = {"STREAMED": 1 << 20, "TURNS": 2, "TURN_SECONDS": 1e-3}
    for name, value in {**tables, **all_ranks, "SECONDS": 1e-5, "REPEATS": 2, "IN_A_ROW": 2}.items():
        monkeypatch.setattr(rates, name, value)


@pytest.mark.mpi(min_size=1)
@pytest.mark.parametrize("per_node", [None, 1, 2])
def test_a_machine_is_measured(quick, per_node):
    comm = MPI.COMM_WORLD
    machine = probe_command.measure(comm, per_node)
    assert comm.allgather(machine) == [machine] * comm.size
    expected = min(per_node or comm.size, comm.size)  # these ranks share memory
    assert machine.ranks_per_node == expected
    assert (machine.local is None) == (expected == 1)
    assert (machine.network is None) == (expected == comm.size)
    assert machine.most_ranks == (math.inf if machine.network else comm.size)
    assert len(machine.all_ranks_gb_per_s) == comm.size and min(machine.all_ranks_gb_per_s) > 0
    # These ranks are on one machine.
    assert machine.shared_cores == len(frozenset.union(*comm.allgather(frozenset(os.sched_getaffinity(0)))))
    assert parse_machine(asdict(machine)) == machine
    assert "each rank while all read weights: " in probe_command.render(machine)


@pytest.mark.mpi(min_size=2)
def test_a_link_between_any_two_ranks(quick):
    comm = MPI.COMM_WORLD
    link = links.measure_link(comm, comm.size - 1)
    assert comm.allgather(link) == [link] * comm.size
    assert min(link.values()) >= 0 and link["gb_per_s"] > 0 and link["exchange_us"] > 0
    assert link["overlap"] <= 1


def test_the_faster_of_two_links():
    slow = {"latency_us": 3.0, "gb_per_s": 1.0, "overlap": 0.5}
    mixed = {"latency_us": 2.0, "gb_per_s": 0.5, "overlap": 0.6}
    assert links.faster(slow, mixed) == {"latency_us": 2.0, "gb_per_s": 1.0, "overlap": 0.6}


@pytest.mark.mpi(min_size=2)
def test_probe_writes_what_forecast_calls_this(quick, monkeypatch, tmp_path, capsys):
    comm = MPI.COMM_WORLD
    cache = Path(comm.bcast(str(tmp_path / "cache"), root=0))
    monkeypatch.setenv("REPURPOSE_HPC_CACHE", str(cache))
    context = RankContext(1, 0.0, 0.0, comm, MPI.Get_library_version())
    probe_command.run(probe_command.parse([], comm.size, speaks=comm.rank == 0), context)
    assert ("written to" in capsys.readouterr().out) == (comm.rank == 0)
    assert read_machine("this", cache / THIS_FILE).ranks_per_node == comm.size
