"""Plans in stages on ranks: outputs of batches that follow each other without a meeting."""

from functools import cache

import numpy as np
import pytest
from mpi4py import MPI

from helpers.programs import make_program, run_program
from helpers.small_graphs import residual_network
from helpers.small_plans import random_network
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.plan.stages import stages_of
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.team import Team
from repurpose_hpc.runtime.exchange.transports import available
from repurpose_hpc.runtime.session import Session

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
NETWORKS = {"chain": random_network(0, (12, 20, 17, 16, 15, 5), head="identity"), "maps": residual_network()}


@cache
def cut_of(name, workers, stages, budget, **options):
    """A network in stages, made by all ranks."""
    network = NETWORKS[name]
    x = np.random.default_rng(1).standard_normal((300, network.inputs))
    given = Options(workers, budget, stages=stages, **options)
    return restructure(network, Samples.of(x), given, team=Team(COMM))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("workers", "stages"), [(COMM.size + 1, 2), (max(COMM.size, 4), 3)])
@pytest.mark.parametrize("budget", [1.0, 0.3])
def test_outputs_are_those_of_the_reference(name, workers, stages, budget):
    """With ranks that host workers of two stages, and batches of which the last is smaller."""
    cut = cut_of(name, workers, stages, budget)
    assert len(stages_of(cut.network, cut.plan)) == stages
    x = np.random.default_rng(2).standard_normal((23, cut.network.inputs))
    for micro_batches in (1, 3):
        program = make_program(cut.network, cut.plan, 4, micro_batches=micro_batches)
        np.testing.assert_allclose(run_program(program, cut.network, x), forward(cut.network, x), atol=1e-9)
        program.free()


@pytest.mark.parametrize("transport", available(COMM))
def test_many_batches_are_under_way(transport):
    """The ranks of a stage run ahead of the next one; nothing is overwritten before it is sent."""
    cut = cut_of("chain", max(2, COMM.size), 2, 0.3, input_placement="partitioned")
    x = np.random.default_rng(3).standard_normal((200, cut.network.inputs))
    program = make_program(cut.network, cut.plan, 2, transport=transport)
    np.testing.assert_allclose(run_program(program, cut.network, x), forward(cut.network, x), atol=1e-9)
    program.free()


def test_a_session_runs_stages():
    cut = cut_of("maps", max(2, COMM.size), 2, 0.5)
    x = np.random.default_rng(4).standard_normal((5, *cut.network.input_shape))
    with Session(cut, COMM, batch_size=2, dtype=np.float64) as session:
        y = session.run(x if COMM.rank == 0 else None)
    if COMM.rank == 0:
        np.testing.assert_allclose(y, forward(cut.network, x), rtol=0, atol=1e-9)
