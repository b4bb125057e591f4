"""The least modelled time is found alike by any number of ranks."""

from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from helpers.machines import with_network
from helpers.roots import from_root
from repurpose_hpc.errors import UserError
from repurpose_hpc.forecast.modelled import ModelledTime
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.restructure.job import Restructured, restructure_network

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
NETWORK = small_plans.random_network(widths=(20, 40, 30, 5), head="identity")
# Computation counts for more than what is sent.
MACHINE = with_network(latency_us=0.1)


def restructured(comm: MPI.Comm, machine=MACHINE) -> Restructured:
    """Restructured for three workers, whatever ranks there are."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((250, 6)) @ rng.standard_normal((6, NETWORK.inputs))
    return restructure_network(
        NETWORK,
        Samples.of(x, forward(NETWORK, x).argmax(axis=1)),
        workers=3,
        input_placement="partitioned",
        forms=("ghosts", "sums"),
        max_output_error=0.2,
        minimise=ModelledTime(machine),
        comm=comm,
    )


def test_same_bits_for_any_number_of_ranks():
    alone, together = from_root(lambda: restructured(MPI.COMM_SELF)), restructured(COMM)
    assert together.network.fingerprint() == alone.network.fingerprint()
    assert together.plan.identity() == alone.plan.identity()
    reports = [{**dict(made.report), "seconds": 0} for made in (alone, together)]
    assert reports[0] == reports[1]
    assert together.report["compute_budget"] < 1 and together.report["trials"] > 8


def test_ranks_that_model_times_otherwise():
    """One rank's model decides, as processors may round otherwise; another machine altogether is refused."""
    if COMM.size == 1:
        pytest.skip("needs several ranks")
    machine = replace(MACHINE, call_us=float(COMM.rank))
    with pytest.raises(UserError, match="minimise: expected the same on every rank"):
        restructured(COMM, machine)
