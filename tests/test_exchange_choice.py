"""Which way of the exchange is taken, and which are refused."""

from types import SimpleNamespace

import numpy as np
import pytest

from repurpose_hpc.errors import UserError
from repurpose_hpc.runtime import choice


def test_what_this_mpi_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(choice, "available", lambda: ["ialltoallv", "p2p"])
    with pytest.raises(UserError, match="--exchange persistent: expected one of ialltoallv, p2p"):
        choice.check_way("persistent")
    choice.check_way("p2p")
    choice.check_way(choice.AUTO)


def test_every_way_is_tried_on_the_batch_that_is_given(monkeypatch):
    tried, x = [], np.ones((3, 2), np.float32)
    latencies = {"ialltoallv": 3.0, "p2p": 2.0, "sparse": 4.0}

    def measure(program, batch, repeat, comm):
        tried.append(batch)
        return SimpleNamespace(latency_us=lambda: {"median": latencies[program.way]})

    monkeypatch.setattr(choice, "available", lambda: list(latencies))
    monkeypatch.setattr(choice, "measure", measure)
    program = SimpleNamespace(way=None)
    comm = SimpleNamespace(size=2, bcast=lambda value, root: value)
    assert choice.choose_way(program, choice.AUTO, x, comm) == latencies
    assert program.way == "p2p"
    assert all(batch is x for batch in tried) and len(tried) == len(latencies)
