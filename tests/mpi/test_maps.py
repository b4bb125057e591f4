"""Programs of networks with maps, branches, gates and two outputs compute what the reference does."""

import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from helpers.programs import counting, make_program, run_program
from helpers.small_graphs import TANH, Draw, convolutional_network, square_window
from repurpose_hpc.model.forward import apply_heads, forward
from repurpose_hpc.plan.plan import PLACEMENTS, Plan, dense_plan

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
WORKERS = sorted({COMM.size, 8})
TOLERANCE = {np.float64: 1e-12, np.float32: 1e-5}


def samples(network, count):
    return np.random.default_rng(5).normal(size=(count, network.inputs))


def assert_computes(network, plan, x, max_batch, dtype=np.float64, comm=COMM):
    """Outputs within the tolerance of the reference's; the program."""
    program = make_program(network, plan, max_batch, comm, dtype)
    y = apply_heads(network, run_program(program, network, x))
    np.testing.assert_allclose(y, forward(network, x), rtol=0, atol=TOLERANCE[dtype])
    return program


def values_sent(network, plan):
    return sum(plan.values_sent(network, mixing) for mixing in network.mixings)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("max_batch", [1, 3, 7])
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("workers", WORKERS)
def test_outputs_are_those_of_the_reference(workers, placement, max_batch, dtype):
    for seed in range(3):
        network = convolutional_network(seed)
        plan = small_plans.random_plan(network, workers, placement, seed)
        pruned = small_plans.pruned(network, plan)
        assert_computes(pruned, plan, samples(network, 7), max_batch, dtype)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_what_is_handed_to_mpi_is_what_the_plan_says(placement, density):
    network = convolutional_network(1)
    plan = small_plans.random_plan(network, COMM.size, placement, 1, density)
    x = samples(network, 5)
    with counting() as handed:
        program = assert_computes(small_plans.pruned(network, plan), plan, x, 3)
    sent = COMM.allreduce(np.array([program.values_sent, handed.bytes, handed.values.sum()]))
    values = values_sent(network, plan)
    assert sent.tolist() == [values, values * len(x) * program.dtype.itemsize, values * len(x)]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("workers", WORKERS)
def test_a_worker_that_owns_nothing(workers, placement):
    network = convolutional_network(2)
    plan = small_plans.random_plan(network, workers, placement, 2)
    free = {space.name: plan.owners[space.name] for space in network.free_spaces}
    made = {
        name: np.minimum(owner, max(workers - 2, 0)) for name, owner in free.items() if (owner >= 0).all()
    }
    owners = network.derive({**free, **made})
    plan = Plan(workers, placement, owners, small_plans.random_masks(network, owners, workers, seed=2))
    assert_computes(small_plans.pruned(network, plan), plan, samples(network, 3), 3)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_constants_for_each_value_and_an_output_of_the_input(placement):
    draw = Draw(0)
    x = draw.builder.input("input", 3, (4, 2))
    ones, shift = np.ones((3, 1)), draw.rng.normal(size=(3, 8))
    moved = draw.builder.affine("moved", x, ones, shift)
    y = draw.builder.affine("y", draw.mixing("c", moved, 3, square_window((4, 2))), 2 * ones, shift)
    y = draw.builder.elementwise("a", y, TANH)
    network = draw.builder.build((y, moved), ("identity",) * 2)
    plan = small_plans.random_plan(network, COMM.size, placement)
    assert_computes(small_plans.pruned(network, plan), plan, samples(network, 4), 4)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_nothing_pruned(placement):
    network = convolutional_network(3)
    plan = dense_plan(network, COMM.size, placement, np.ones(COMM.size))
    assert all(plan.allowed(network, mixing)[mixing.links].all() for mixing in network.mixings)
    assert_computes(network, plan, samples(network, 4), 4)


def test_outputs_are_the_same_to_the_last_bit_every_time():
    network = convolutional_network(4)
    plan = small_plans.random_plan(network, 8, "partitioned", 4)
    program = make_program(small_plans.pruned(network, plan), plan, 3, dtype=np.float32)
    x = samples(network, 7)
    first, second = (run_program(program, network, x) for _ in range(2))
    assert first.tobytes() == second.tobytes()
