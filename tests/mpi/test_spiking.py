"""Networks whose neurons fire: the spikes of ranks are those of the reference, and travel as bits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from helpers import small_plans
from helpers.nir_files import PAPER, paper
from helpers.programs import counting, make_program, run_program
from helpers.small_graphs import spiking_network
from repurpose_hpc.model.coding import coded
from repurpose_hpc.model.forward import forward
from repurpose_hpc.plan.plan import PLACEMENTS
from repurpose_hpc.runtime.exchange.transports import available
from repurpose_hpc.runtime.resources import Formats

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD


def samples(network, count):
    return np.random.default_rng(5).normal(0.3, 1, size=(count, network.inputs))


@given(
    seed=st.integers(0, 99),
    more_workers=st.integers(0, 3),
    placement=st.sampled_from(PLACEMENTS),
    density=st.sampled_from([0.05, 0.5, 1.0]),
    wire=st.sampled_from(["float32", "int8"]),
    max_batch=st.integers(1, 5),
)
@settings(max_examples=12)
def test_outputs_are_those_of_the_reference(seed, more_workers, placement, density, wire, max_batch):
    """Whatever else is rounded on its way, spikes arrive as they are."""
    network = spiking_network(seed)
    plan = small_plans.random_plan(network, COMM.size + more_workers, placement, seed, density)
    if wire != "float32":  # the input would be rounded
        plan = small_plans.scaled(network, plan)
        wire = "float32" if placement == "partitioned" else wire
    network = small_plans.pruned(network, plan)
    program = make_program(network, plan, max_batch, formats=Formats(comm_dtype=wire))
    x = samples(network, 5)
    np.testing.assert_allclose(run_program(program, network, x), forward(network, x), rtol=0, atol=1e-10)


@pytest.mark.skipif(COMM.size == 1, reason="nothing is sent")
@pytest.mark.parametrize("transport", available(COMM))
def test_every_transport_brings_the_same_spikes(transport):
    network = spiking_network(1)
    plan = small_plans.random_plan(network, COMM.size, "replicated", 1, 0.5)
    network = small_plans.pruned(network, plan)
    program = make_program(network, plan, 3, transport=transport)
    x = samples(network, 5)
    np.testing.assert_allclose(run_program(program, network, x), forward(network, x), rtol=0, atol=1e-10)


def test_eight_neurons_that_fire_are_a_byte():
    """What is handed to MPI is what the plan counts: a bit for a spike, and whole numbers for sums."""
    network = spiking_network(2)
    plan = small_plans.random_plan(network, COMM.size, "replicated", 2, 0.5)
    program = make_program(small_plans.pruned(network, plan), plan, 4, dtype=np.float32)
    x = samples(network, 4)
    with counting() as handed:
        run_program(program, small_plans.pruned(network, plan), x)
    sent, expected = COMM.allreduce(handed.bytes), 4 * plan.bytes_sent(network, "float32")
    assert sent == expected
    for mixing in network.mixings[1:]:
        assert mixing.source in network.binary_tensors
        ghosts = plan.ghost_traffic(network, mixing)
        assert (plan.ghost_bytes(network, mixing, "float32") >= ghosts / 8).all()


@pytest.mark.parametrize("comm_dtype", ["float32", "int8"])
def test_coded_inputs_that_one_worker_has_travel_as_bits(comm_dtype):
    network = coded(spiking_network(3), "rate")
    plan = small_plans.random_plan(network, COMM.size, "root", 3, 0.5)
    if comm_dtype != "float32":
        plan = small_plans.scaled(network, plan)
    network = small_plans.pruned(network, plan)
    images = np.random.default_rng(5).random((4, 2, 4, 3)).astype(np.float32)
    x = network.ends.front.compute([images])[0].reshape(4, -1)
    formats = Formats(comm_dtype=comm_dtype)
    y = run_program(make_program(network, plan, 4, formats=formats), network, x)
    program = make_program(network, plan, 4, dtype=np.float32, formats=formats)
    with counting() as handed:
        run_program(program, network, x)
    np.testing.assert_allclose(y, forward(network, images.reshape(4, -1)), rtol=0, atol=1e-10)
    assert COMM.allreduce(handed.bytes) == 4 * plan.bytes_sent(network, comm_dtype)
    first = network.mixings[0]
    ghosts = plan.ghost_traffic(network, first)
    assert first.source in network.input_tensors and ghosts.any() == (COMM.size > 1)
    assert (plan.ghost_bytes(network, first, comm_dtype) <= ghosts).all()  # two neurons are a byte


@pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("density", [0.3, 1.0])
def test_networks_of_the_paper_on_nir_fire_alike_on_all_ranks(name, density):
    network, x = paper(name, steps=12)
    plan = small_plans.random_plan(network, COMM.size, "replicated", 3, density)
    network = small_plans.pruned(network, plan)
    spikes = run_program(make_program(network, plan, len(x)), network, x.reshape(len(x), -1))
    assert spikes.any() or density < 1
    np.testing.assert_array_equal(spikes, forward(network, x))
