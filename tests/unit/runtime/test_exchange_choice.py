"""Which transport is taken, and which are refused."""

from types import SimpleNamespace

import numpy as np
import pytest
from mpi4py import MPI

from repurpose_hpc.errors import UserError
from repurpose_hpc.mpi.groups import Groups
from repurpose_hpc.runtime.exchange import choose as choice
from repurpose_hpc.runtime.exchange import transports
from repurpose_hpc.runtime.exchange.transport import TRANSPORTS
from repurpose_hpc.runtime.exchange.transports import shared

ALONE = MPI.COMM_SELF
GROUP = Groups(ALONE)


def test_what_this_mpi_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(TRANSPORTS["persistent"], "is_available", lambda comm: False)
    with pytest.raises(
        UserError, match="transport: expected one of ialltoallv, .*p2p.*, got persistent: this MPI"
    ):
        choice.check_transport("persistent", GROUP)
    choice.check_transport("p2p", GROUP)
    choice.check_transport(choice.AUTO, GROUP)


def test_memory_is_shared_on_one_node_only(monkeypatch):
    choice.check_transport("shared", GROUP)
    monkeypatch.setattr(shared, "on_one_node", lambda comm: False)
    with pytest.raises(UserError, match="transport: expected .*, got shared: the ranks are on several nodes"):
        choice.check_transport("shared", GROUP)
    assert "shared" not in transports.available(ALONE)


def test_little_shared_memory_is_refused(monkeypatch):
    monkeypatch.setattr(shared, "_free_bytes", lambda: 1000)
    with pytest.raises(
        UserError, match="1064 bytes of shared memory for shared, .* has 1000; make it larger"
    ):
        shared.Segment(1000, ALONE)


def test_every_transport_is_tried_on_the_batch_that_is_given(monkeypatch):
    tried, x = [], np.ones((3, 2), np.float32)
    latencies = {"ialltoallv": 3.0, "p2p": 2.0, "sparse": 4.0}

    def measure(program, batch, repeat, comm):
        tried.append(batch)
        return SimpleNamespace(latency_us=lambda: {"median": latencies[program.transport]})

    monkeypatch.setattr(choice, "available", lambda comm: list(latencies))
    monkeypatch.setattr(choice, "measure", measure)
    program = SimpleNamespace(transport=None)
    program.use_transport = lambda name: setattr(program, "transport", name)
    groups = Groups(SimpleNamespace(size=2, bcast=lambda value, root: value))
    assert choice.choose_transport(program, choice.AUTO, x, groups) == latencies
    assert program.transport == "p2p"
    assert all(batch is x for batch in tried) and len(tried) == len(latencies)
