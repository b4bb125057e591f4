"""Mistakes of a library user on several ranks: the same ``UserError`` on every rank, and no hang."""

import numpy as np
import pytest
from mpi4py import MPI

import repurpose_hpc as rp
from helpers import small_plans

COMM = MPI.COMM_WORLD
RANK, LAST = COMM.rank, COMM.rank == COMM.size - 1
pytestmark = pytest.mark.mpi(min_size=2)

NETWORK = small_plans.random_network(head="identity")
X = np.random.default_rng(0).standard_normal((60, NETWORK.inputs)).astype(np.float32)


@pytest.fixture(scope="module")
def cut():
    return rp.restructure_network(NETWORK, rp.Samples.of(X), workers=COMM.size, comm_budget=0.5, comm=COMM)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"comm_budget": 0.3 if LAST else 0.1}, "comm_budget: expected the same on every rank, found 0.1"),
        ({"seed": int(LAST)}, "seed: expected the same on every rank"),
        ({"worker": 3}, "worker: no such option; did you mean workers"),
        ({"dtype": int if LAST else np.float32}, "dtype: expected float32 or float64, got int64"),
    ],
)
def test_restructuring(fields, message):
    with pytest.raises(rp.UserError, match=message):
        rp.restructure_network(NETWORK, rp.Samples.of(X), comm=COMM, **{"workers": COMM.size, **fields})


def test_restructuring_with_other_samples():
    with pytest.raises(rp.UserError, match="calibration_sha256: expected the same on every rank"):
        rp.restructure_network(NETWORK, rp.Samples.of(X[: 50 + LAST]), workers=COMM.size, comm=COMM)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 64 + LAST}, "batch_size: expected the same on every rank"),
        ({"transport": "p2p" if LAST else "ialltoallv"}, "transport: expected the same on every rank"),
        ({"dtype": "float64" if LAST else "float32"}, "dtype: expected the same on every rank"),
        ({"batch_size": 1 - LAST}, "batch_size: expected an integer, 1 or more, got 0"),
        ({"transport": "auto"}, "transport: expected one of"),
    ],
)
def test_sessions(cut, fields, message):
    with pytest.raises(rp.UserError, match=message):
        rp.Session(cut, COMM, **fields)


def test_runs(cut):
    """A session goes on after a mistake, until it is closed."""
    session = rp.Session(cut, COMM)
    for x, message in (
        (X[10 * LAST : 10 * LAST + 10], "x: expected the same samples on every rank"),
        (X[: 10 + LAST], "x: expected the same samples on every rank"),
        (X[:, LAST:], "values per sample"),
        (None, "x: expected an array of samples on the root, found None"),
        (np.full_like(X, np.inf) if LAST else X, "finite"),
    ):
        with pytest.raises(rp.UserError, match=message), np.errstate(over="ignore"):
            session.run(x)
    y = session.run(X if RANK == 0 else None)
    assert (y is not None) is (RANK == 0)
    session.close()
    session.close()
    with pytest.raises(rp.UserError, match="closed"):
        session.run(X)
