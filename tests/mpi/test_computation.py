"""Networks with a budget of computation on any number of ranks: outputs, what crosses, what ranks compute."""

import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from helpers.programs import make_program, run_program
from helpers.roots import by_root
from helpers.small_graphs import convolutional_network, residual_network
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.comm_dtype import COMM_DTYPES, STEPS
from repurpose_hpc.model.forward import apply_heads, forward
from repurpose_hpc.plan.plan import PARTITIONED, PLACEMENTS, REPLICATED
from repurpose_hpc.plan.rounding import rounded_compute
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.runtime.resources import Formats

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
NETWORKS = {
    "perceptron": small_plans.random_network(5, widths=(23, 80, 90, 6), head="identity"),
    "convolutions": convolutional_network(),
    "residual": residual_network(channels=40),
}
COUNT = 11
FORMS = ("ghosts", "sums", "relays")


@by_root
def cut_for(name, workers, placement="replicated", comm_budget=0.2, **fields):
    network, rng = NETWORKS[name], np.random.default_rng(0)
    x = rng.standard_normal((150, network.inputs)) @ rng.standard_normal((network.inputs,) * 2)
    # The last worker owns nothing but its part of the input.
    weights = (1.0,) * (workers - 1) + (0.0,) if workers > 2 else None
    options = Options(workers, comm_budget, placement, part_weights=weights, compute_budget=0.4, **fields)
    return restructure(network, Samples.of(x.reshape(150, *network.input_shape)), options)


def samples(network):
    return np.random.default_rng(1).standard_normal((COUNT, network.inputs))


@pytest.mark.parametrize("more_workers", [0, 1, 3])
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_the_reference(name, placement, more_workers):
    cut = cut_for(name, COMM.size + more_workers, placement)
    x = samples(cut.network)
    expected = forward(cut.network, x)
    for batch in (1, COUNT):
        program = make_program(cut.network, cut.plan, batch)
        y = apply_heads(cut.network, run_program(program, cut.network, x))
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-11)
        assert cut.plan.removed or name != "perceptron"
        assert COMM.allreduce(program.multiply_adds) == cut.plan.multiply_adds(cut.network).sum()
        sent, total = COMM.allreduce(program.values_sent), cut.traffic_matrix().sum()
        assert sent == total if not more_workers else sent <= total
        program.free()


def test_blocks_are_smaller():
    """Own neurons that a block does without are not multiplied, even where others read them."""
    cut = cut_for("residual", COMM.size)
    program = make_program(cut.network, cut.plan, COUNT)
    columns = sum(block["columns"] for block in program.blocks if block["layer"] == "c1")
    # The shortcut reads what c1 does not: nothing is removed.
    assert "c0" not in cut.plan.removed
    assert COMM.allreduce(columns) < 40
    program.free()


@pytest.mark.parametrize("more_workers", [0, 1])
@pytest.mark.parametrize("placement", [REPLICATED, PARTITIONED])
@pytest.mark.parametrize("name", ["perceptron", "convolutions"])
def test_with_relays(name, placement, more_workers):
    """What they take is counted, and in nobody's shard is a removed neuron."""
    workers = COMM.size + more_workers
    cut = cut_for(name, workers, placement, comm_budget=0.1, forms=FORMS)
    assert cut.plan.relays or workers == 1 or name == "convolutions"
    x = samples(cut.network)
    program = make_program(cut.network, cut.plan, COUNT)
    y = apply_heads(cut.network, run_program(program, cut.network, x))
    np.testing.assert_allclose(y, forward(cut.network, x), rtol=0, atol=1e-11)
    assert COMM.allreduce(program.multiply_adds) == cut.plan.multiply_adds(cut.network).sum()
    sent, total = COMM.allreduce(program.values_sent), cut.traffic_matrix().sum()
    assert sent == total if not more_workers else sent <= total
    program.free()


@pytest.mark.parametrize("forms", [FORMS[:2], FORMS])
@pytest.mark.parametrize("comm_dtype", COMM_DTYPES)
def test_with_fewer_bits(comm_dtype, forms):
    cut = cut_for("perceptron", COMM.size + 1, PARTITIONED, 0.1, comm_dtype=comm_dtype, forms=forms)
    x = samples(cut.network)
    program = make_program(
        cut.network, cut.plan, COUNT, dtype=np.float32, formats=Formats(comm_dtype=comm_dtype)
    )
    expected = forward(cut.network, x, compute=rounded_compute(cut.network, cut.plan, comm_dtype))
    tolerance = (1e-5 + STEPS[comm_dtype]) * max(1, np.abs(expected).max())
    np.testing.assert_allclose(run_program(program, cut.network, x), expected, rtol=0, atol=tolerance)
    program.free()
