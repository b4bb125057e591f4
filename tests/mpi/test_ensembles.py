"""Whole branches for workers: the same bits on any number of ranks, and runs of what comes of it."""

import numpy as np
import pytest
from mpi4py import MPI

from helpers.ensembles import block_chain, ensemble, members
from helpers.roots import from_root
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.job import restructure_network
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.team import Team
from repurpose_hpc.runtime.session import Session

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
PARTS = members(5, (9, 8, 8, 3))
NETWORKS = {
    "ensemble": ensemble(PARTS),
    "concatenated": ensemble(PARTS, "concat"),
    "weak": block_chain(members(4, (9, 24, 24, 3)), 0.05),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("workers", [3, 5])
def test_ranks_restructure_to_the_same_bits(name, workers):
    network = NETWORKS[name]
    samples = Samples.of(np.random.default_rng(3).standard_normal((300, network.inputs)))
    alone = from_root(lambda: restructure(network, samples, Options(workers, 0.2)))
    together = restructure(network, samples, Options(workers, 0.2), team=Team(COMM))
    assert together.plan.identity() == alone.plan.identity()
    assert together.network.fingerprint() == alone.network.fingerprint()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_session_computes_what_the_reference_does(name):
    network = NETWORKS[name]
    x = np.random.default_rng(4).standard_normal((300, network.inputs))
    cut = restructure_network(
        network, Samples.of(x), workers=COMM.size + 1, comm_budget=0.2, dtype=np.float64, comm=COMM
    )
    y = Session(cut, comm=COMM, dtype=np.float64).run(x[:7])
    if COMM.rank == 0:
        np.testing.assert_allclose(y, forward(cut.network, x[:7]), atol=1e-12)
