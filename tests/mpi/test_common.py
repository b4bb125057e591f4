"""Programs in which every worker has a copy of the stream compute what the reference does."""

import numpy as np
import pytest
from mpi4py import MPI

from helpers.programs import counting
from helpers.small_transformers import decoder, texts
from repurpose_hpc.model.forward import forward
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.runtime.tokens import Tokens, TokenSession

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
WORKERS = sorted({COMM.size, 5, 8} - set(range(COMM.size)))
TOLERANCE = {np.float64: 1e-12, np.float32: 2e-5}
OWNED, COMMON = 0.0, 1e9


def expected(network, ids):
    return forward(network.at(ids.size), ids[None]).reshape(ids.size, -1)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("round_cost", [OWNED, COMMON])
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("heads", [4, 1])
def test_outputs_are_those_of_the_reference(workers, round_cost, dtype, heads):
    """With one head the stream has three neurons, and some workers have none of it."""
    network = decoder(workers, heads=heads, groups=min(heads, 2))
    session = TokenSession(
        split_network(network, workers, round_cost=round_cost), COMM, slots=3, chunk=7, dtype=dtype
    )
    found = session.run([Tokens(slot, ids) for slot, ids in enumerate(texts())])
    session.close()
    assert (found is None) == (COMM.rank > 0)
    for ids, rows in zip(texts(), found or [], strict=False):
        np.testing.assert_allclose(rows, expected(network, ids), rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("workers", WORKERS)
def test_what_is_handed_to_mpi_is_one_sum_a_rank(workers):
    """Ranks add up what their workers add, and send it to each other rank once."""
    network = decoder(layers=1)
    cut = split_network(network, workers, round_cost=COMMON)
    session = TokenSession(cut, COMM, chunk=4)
    with counting() as handed:
        session.run([Tokens(0, texts()[0][:4])])
    sent = COMM.allreduce(session.program.values_sent)
    assert COMM.allreduce(int(handed.values.sum())) == 4 * sent
    if workers == COMM.size:
        assert sent == sum(cut.plan.values_sent(network, mixing) for mixing in network.mixings)
    assert sent % (network.inputs * max(COMM.size - 1, 1)) == 0
    assert session.program.rounds == 2 * (COMM.size > 1)
    session.close()
