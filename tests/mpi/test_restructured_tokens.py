"""Restructured transformers compute on any number of ranks what the reference does."""

import numpy as np
import pytest
from mpi4py import MPI

from helpers.roots import by_root
from helpers.small_transformers import decoder, encoder, retentive, texts
from repurpose_hpc.model.forward import forward
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.restructure.tokens.driver import measure_halves, restructure_tokens
from repurpose_hpc.restructure.tokens.options import TokenOptions
from repurpose_hpc.runtime.tokens import Tokens, TokenSession

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
WORKERS = sorted({COMM.size, 5, 8} - set(range(COMM.size)))
CALIBRATION = texts(1, (9, 1, 14, 20, 11, 16) * 6)
NETWORKS = {"decoder": decoder(1), "encoder": encoder(2), "one head": decoder(3, heads=1, groups=1)}
OTHERS = {"retention": retentive(4)}
# Budget, price of a round: all forms occur.
BUDGETS = [(1.0, 0.0), (0.5, 0.0), (0.2, 0.0), (0.0, 0.0), (0.5, 1e4)]
TOLERANCE = {"float32": 1e-12, "bfloat16": 2e-5, "int8": 2e-5, "int4": 2e-5}


@by_root
def restructured(name, workers, budget, round_cost, comm_dtype):
    options = TokenOptions(
        workers, comm_budget=budget, round_cost=round_cost, comm_dtype=comm_dtype, load=workers
    )
    network = (NETWORKS | OTHERS)[name]
    if workers == 1:
        return split_network(network, 1)
    measured = measure_halves(network, CALIBRATION, options)
    return restructure_tokens(CALIBRATION, options, measured)


@pytest.mark.parametrize("comm_dtype", TOLERANCE)
@pytest.mark.parametrize(("budget", "round_cost"), BUDGETS)
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_the_reference(name, workers, budget, round_cost, comm_dtype):
    check_outputs(name, workers, budget, round_cost, comm_dtype)


@pytest.mark.parametrize("budget", [1.0, 0.2])
@pytest.mark.parametrize("name", OTHERS)
def test_outputs_of_other_networks(name, budget):
    check_outputs(name, COMM.size, budget, 0.0, "float32")


def check_outputs(name, workers, budget, round_cost, comm_dtype):
    cut = restructured(name, workers, budget, round_cost, comm_dtype)
    dtype = np.float64 if comm_dtype == "float32" else np.float32
    session = TokenSession(cut, COMM, slots=3, chunk=7, dtype=dtype)
    found = session.run([Tokens(slot, ids) for slot, ids in enumerate(texts())])
    sent = session.sent()[0]
    session.close()
    if COMM.size == workers:
        assert sent == cut.traffic_matrix().sum()
    for ids, rows in zip(texts(), found or [], strict=False):
        expected = forward(cut.network.at(ids.size), ids[None], compute=cut.compute())
        np.testing.assert_allclose(rows, expected.reshape(ids.size, -1), rtol=0, atol=TOLERANCE[comm_dtype])
