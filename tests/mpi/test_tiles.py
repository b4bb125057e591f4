"""Networks shared out by position compute what they did before, and send what the plan says."""

import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from helpers.covering import covering
from helpers.programs import counting, make_program, run_program
from helpers.roots import by_root
from helpers.small_graphs import (
    Draw,
    convolutional_network,
    filtered_network,
    normalised_network,
    residual_network,
    square_window,
)
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.activations import RELU
from repurpose_hpc.model.comm_dtype import WEIGHTS_DTYPES
from repurpose_hpc.model.forward import apply_heads, forward
from repurpose_hpc.model.tiles import divisions, tileable, tiled
from repurpose_hpc.plan.plan import PLACEMENTS, REPLICATED, dense_plan
from repurpose_hpc.restructure.job import restructure_network
from repurpose_hpc.runtime.resources import Formats
from repurpose_hpc.runtime.schedule import ahead

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
NETWORKS = {
    make.__name__: make()
    for make in (convolutional_network, filtered_network, normalised_network, residual_network)
}
TOLERANCE = {np.float64: 1e-12, np.float32: 1e-5}
# One worker for each rank, or several, of which ranks host different numbers.
MORE_WORKERS = (0, 3)
COUNT = 7


@pytest.fixture(autouse=True)
def insides_however_small(monkeypatch):
    monkeypatch.setattr(ahead, "LEAST_INSIDE", 1)


def shared_out(network, layers, workers, placement):
    """The network by position, with the first cuts, and the plan that prunes nothing."""
    shapes = [shape for shape in network.positions_of.values() if shape]
    division = next(divisions(shapes, np.ones(workers)))
    cut = tiled(network, layers, division, 0, placement != REPLICATED)
    return cut, dense_plan(cut, workers, placement, np.ones(workers))


def assert_computes(cut, plan, original, dtype, tolerance, batch=3):
    """The outputs of the original; the program."""
    x = np.random.default_rng(5).standard_normal((COUNT, original.inputs))
    program = make_program(cut, plan, batch, dtype=dtype)
    y, expected = apply_heads(cut, run_program(program, cut, x)), forward(original, x)
    np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))
    return program


@pytest.mark.parametrize(
    ("name", "placement", "more_workers", "dtype", "is_all"),
    covering(NETWORKS, PLACEMENTS, MORE_WORKERS, TOLERANCE, (False, True)),
)
def test_outputs_are_those_of_the_original(name, placement, more_workers, dtype, is_all):
    network = NETWORKS[name]
    layers = tileable(network) if is_all else 1
    cut, plan = shared_out(network, layers, COMM.size + more_workers, placement)
    assert_computes(cut, plan, network, dtype, TOLERANCE[dtype]).free()


@pytest.mark.parametrize("weights_dtype", WEIGHTS_DTYPES[1:])
def test_weights_in_fewer_bits_leave_what_brings_halos_as_it_is(weights_dtype):
    network = NETWORKS["convolutional_network"]
    cut, plan = shared_out(network, tileable(network), COMM.size + 1, "partitioned")
    x = np.random.default_rng(5).standard_normal((COUNT, network.inputs))
    program = make_program(cut, plan, 3, dtype=np.float32, formats=Formats(weights_dtype))
    y, expected = apply_heads(cut, run_program(program, cut, x)), forward(network, x)
    program.free()
    np.testing.assert_allclose(y, expected, rtol=0, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_handed_to_mpi_is_what_the_plan_says(name):
    """In one exchange a round, however many pieces halos have."""
    network = NETWORKS[name]
    cut, plan = shared_out(network, tileable(network), COMM.size, REPLICATED)
    with counting() as handed:
        program = assert_computes(cut, plan, network, np.float64, 1e-12, batch=COUNT)
    values = sum(plan.values_sent(cut, mixing) for mixing in cut.mixings)
    assert COMM.allreduce(np.array([program.values_sent, handed.values.sum()])).tolist() == [
        values,
        values * COUNT,
    ]
    assert handed.calls == program.rounds
    program.free()


def test_the_inside_of_a_tile_is_computed_while_its_halo_travels():
    draw, size, workers = Draw(0), (11 * COMM.size, 13), COMM.size
    image = draw.builder.input("input", 2, size)
    first = draw.mixing("first", image, 3, square_window(size))
    second = draw.builder.elementwise("a", draw.mixing("second", first, 4, square_window(size)), RELU)
    network = draw.builder.build((second,), ("identity",))
    cut, plan = shared_out(network, 2, workers, REPLICATED)
    # Without clocks: convolutions are direct.
    x = np.random.default_rng(1).standard_normal((5, network.inputs))
    program = make_program(cut, plan, 5, deterministic=True)
    expected = forward(network, x)
    tolerance = 1e-12 * np.abs(expected).max()
    np.testing.assert_allclose(run_program(program, cut, x), expected, rtol=0, atol=tolerance)
    (schedule,) = program._schedules.values()
    labels = [(label.layer, label.call) for label in schedule.labels]
    calls = [n for n, label in enumerate(labels) if label == (f"second@{COMM.rank}", "convolve_direct")]
    waits = [n for n, label in enumerate(schedule.labels) if label.category == "wait"]
    if COMM.size > 1:
        assert calls[0] < waits[0] < calls[1]
    program.free()


@by_root
def restructured(workers, budget):
    """The first two convolutions by position, the others by channel."""
    network, rng = NETWORKS["residual_network"], np.random.default_rng(0)
    samples = Samples.of(rng.standard_normal((80, *network.input_shape)))
    cut = restructure_network(
        network, samples, workers=workers, comm_budget=budget, by_position=2, dtype=np.float64
    )
    return cut.network, cut.plan, cut.report["values_sent"], cut.report["dense_values"]


@pytest.mark.parametrize("more_workers", MORE_WORKERS)
def test_layers_by_position_and_layers_by_channel(more_workers):
    workers, budget = COMM.size + more_workers, 0.99
    network, plan, sent, dense = restructured(workers, budget)
    program = assert_computes(network, plan, network, np.float64, 1e-12)
    found = COMM.allreduce(program.values_sent)
    assert found == sent if not more_workers else found <= sent
    assert sent <= budget * dense
    program.free()
    assert small_plans.pruned(network, plan).fingerprint() == network.fingerprint()
