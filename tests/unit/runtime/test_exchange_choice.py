"""Which way of the exchange is taken, and which are refused."""

from types import SimpleNamespace

import numpy as np
import pytest
from mpi4py import MPI

from repurpose_hpc.errors import UserError
from repurpose_hpc.runtime.exchange import choose as choice
from repurpose_hpc.runtime.exchange.transports import shared
from repurpose_hpc.runtime.exchange.transports import table as carriers

ALONE = MPI.COMM_SELF


def test_what_this_mpi_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(carriers, "_has_persistent", lambda: False)
    with pytest.raises(
        UserError, match="transport: expected one of ialltoallv, .*p2p.*, got persistent: this MPI"
    ):
        choice.check_way("persistent", ALONE)
    choice.check_way("p2p", ALONE)
    choice.check_way(choice.AUTO, ALONE)


def test_memory_is_shared_on_one_node_only(monkeypatch):
    choice.check_way("shared", ALONE)
    monkeypatch.setattr(carriers, "on_one_node", lambda comm: False)
    with pytest.raises(UserError, match="transport: expected .*, got shared: the ranks are on several nodes"):
        choice.check_way("shared", ALONE)
    assert "shared" not in carriers.available(ALONE)


def test_little_shared_memory_is_refused(monkeypatch):
    monkeypatch.setattr(shared, "_free_bytes", lambda: 1000)
    with pytest.raises(
        UserError, match="1064 bytes of shared memory for shared, .* has 1000; make it larger"
    ):
        shared.Window(1000, ALONE)


def test_every_way_is_tried_on_the_batch_that_is_given(monkeypatch):
    tried, x = [], np.ones((3, 2), np.float32)
    latencies = {"ialltoallv": 3.0, "p2p": 2.0, "sparse": 4.0}

    def measure(program, batch, repeat, comm):
        tried.append(batch)
        return SimpleNamespace(latency_us=lambda: {"median": latencies[program.way]})

    monkeypatch.setattr(choice, "available", lambda comm: list(latencies))
    monkeypatch.setattr(choice, "measure", measure)
    program = SimpleNamespace(way=None)
    comm = SimpleNamespace(size=2, bcast=lambda value, root: value)
    assert choice.choose_way(program, choice.AUTO, x, comm) == latencies
    assert program.way == "p2p"
    assert all(batch is x for batch in tried) and len(tried) == len(latencies)
