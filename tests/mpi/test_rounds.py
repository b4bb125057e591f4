"""Exchanges left out for the price of rounds: a run has the rounds of its plan, and the right outputs."""

import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from helpers.programs import counting, make_program, run_program
from helpers.roots import by_root
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.plan.rounds import rounds_of
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
NETWORK = small_plans.random_network(5, widths=(24, 40, 30, 6), head="identity")
X = np.random.default_rng(1).standard_normal((19, 24))


@by_root
def cut_for(workers, cost, forms=("ghosts", "sums")):
    rng = np.random.default_rng(0)
    samples = Samples.of(rng.standard_normal((400, 24)) @ rng.standard_normal((24, 24)))
    return restructure(NETWORK, samples, Options(workers, 0.2, "partitioned", forms=forms, round_cost=cost))


@pytest.mark.parametrize("more_workers", [0, 2])
@pytest.mark.parametrize("forms", [("ghosts", "sums"), ("ghosts", "sums", "relays")])
@pytest.mark.parametrize("cost", [0.0, 300.0, 10000.0])
def test_a_run_has_the_rounds_of_its_plan(cost, forms, more_workers):
    cut = cut_for(COMM.size + more_workers, cost, forms)
    rounds = rounds_of(cut.network, cut.plan)
    with counting() as counts:
        program = make_program(cut.network, cut.plan, 19)
        outputs = run_program(program, cut.network, X)
    np.testing.assert_allclose(outputs, forward(cut.network, X), rtol=0, atol=1e-12)
    # Workers that share a rank may need fewer.
    assert program.rounds == rounds if not more_workers else program.rounds <= rounds
    assert counts.calls == program.rounds
    program.free()


def test_a_price_saves_rounds():
    workers = max(COMM.size, 3)
    rounds = [rounds_of(cut.network, cut.plan) for cut in (cut_for(workers, cost) for cost in (0.0, 10000.0))]
    assert rounds[0] == len(NETWORK.mixings)
    assert rounds[1] < rounds[0]
