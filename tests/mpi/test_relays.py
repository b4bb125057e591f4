"""Relays on any number of ranks: what crosses, and outputs that are those of the reference."""

import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from helpers.programs import make_program, run_program
from helpers.roots import by_root
from helpers.small_graphs import convolutional_network
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.comm_dtype import COMM_DTYPES, STEPS
from repurpose_hpc.model.forward import apply_heads, forward
from repurpose_hpc.plan.rounding import rounded_compute
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.runtime.resources import Formats

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
FORMS = ("ghosts", "sums", "relays")
NETWORK = small_plans.random_network(5, widths=(23, 37, 30, 6), head="identity")
X = np.random.default_rng(1).standard_normal((19, 23))


@by_root
def cut_for(workers, placement="partitioned", **fields):
    rng = np.random.default_rng(0)
    samples = Samples.of(rng.standard_normal((200, 23)) @ rng.standard_normal((23, 23)))
    # The last worker owns nothing but its part of the input.
    weights = (1.0,) * (workers - 1) + (0.0,) if workers > 2 else None
    options = Options(workers, 0.15, placement, part_weights=weights, forms=FORMS, **fields)
    return restructure(NETWORK, samples, options)


@by_root
def mapped_cut_for(workers, budget, **fields):
    """Of a convolutional network."""
    network, rng = convolutional_network(0), np.random.default_rng(0)
    x = rng.standard_normal((300, network.inputs)) @ rng.standard_normal((network.inputs, network.inputs))
    samples = Samples.of(x / np.sqrt(network.inputs))
    return restructure(network, samples, Options(workers, budget, "partitioned", forms=FORMS, **fields))


@pytest.mark.parametrize("more_workers", [0, 1, 3])
@pytest.mark.parametrize("placement", ["partitioned", "root", "replicated"])
def test_outputs_are_those_of_the_reference(placement, more_workers):
    workers = COMM.size + more_workers
    cut = cut_for(workers, placement)
    assert cut.plan.relays or workers == 1
    expected = forward(cut.network, X)
    for batch in (1, 7, 19):
        program = make_program(cut.network, cut.plan, batch)
        np.testing.assert_allclose(run_program(program, cut.network, X), expected, rtol=0, atol=1e-12)
        sent = COMM.allreduce(program.values_sent)
        total = cut.traffic_matrix().sum()
        assert sent == total if not more_workers else sent <= total
        program.free()


@pytest.mark.parametrize("more_workers", [0, 1])
@pytest.mark.parametrize("budget", [0.1, 0.3])
def test_maps(budget, more_workers):
    """Relays before windows and behind them."""
    workers = COMM.size + more_workers
    cut = mapped_cut_for(workers, budget)
    # Where a worker has a channel or none, ghosts and sums say as much as relays do.
    assert cut.plan.relays or workers == 1 or budget == 0.3
    x = np.random.default_rng(1).standard_normal((7, cut.network.inputs))
    expected = forward(cut.network, x)
    for batch in (1, 3, 7):
        program = make_program(cut.network, cut.plan, batch)
        y = apply_heads(cut.network, run_program(program, cut.network, x))
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)
        program.free()


@pytest.mark.parametrize("adjusted", [False, True])
@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("comm_dtype", COMM_DTYPES)
def test_relays_travel_in_fewer_bits(comm_dtype, maps, adjusted):
    """As ghosts do; with scales of their own, and weights that are adjusted for it or not."""
    workers, fields = COMM.size + 1, {"comm_dtype": comm_dtype} if adjusted else {}
    cut = mapped_cut_for(workers, 0.1, **fields) if maps else cut_for(workers, **fields)
    assert cut.plan.relays
    x = np.random.default_rng(1).standard_normal((19, cut.network.inputs))
    program = make_program(
        cut.network, cut.plan, 19, dtype=np.float32, formats=Formats(comm_dtype=comm_dtype)
    )
    expected = forward(cut.network, x, compute=rounded_compute(cut.network, cut.plan, comm_dtype))
    y = apply_heads(cut.network, run_program(program, cut.network, x))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 + STEPS[comm_dtype])
    program.free()
