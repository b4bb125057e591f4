"""Attention on any number of ranks: whole heads on their workers, sequences at both ends."""

import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from helpers.covering import covering
from helpers.programs import make_program, run_program
from helpers.roots import from_root
from helpers.small_graphs import Draw, transformer
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import apply_heads, forward
from repurpose_hpc.model.operations import pointwise
from repurpose_hpc.plan.plan import PLACEMENTS, Plan, dense_plan
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
TOLERANCE = {np.float64: 1e-12, np.float32: 3e-5}
# Ranks may host several workers; three workers more than heads there are.
WORKERS = sorted({COMM.size, COMM.size + 3, 11})


def samples(network, count, seed=5):
    return np.random.default_rng(seed).standard_normal((count, network.inputs))


def assert_computes(network, plan, max_batch, dtype=np.float64):
    """Outputs within the tolerance of the reference's."""
    x = samples(network, 5)
    program = make_program(network, plan, max_batch, COMM, dtype)
    y = apply_heads(network, run_program(program, network, x))
    np.testing.assert_allclose(y, forward(network, x), rtol=0, atol=TOLERANCE[dtype])
    program.free()


CASES = covering(WORKERS, PLACEMENTS, list(TOLERANCE), (1, 3, 5), (False, True), (0.0, 0.3, 1.0))


@pytest.mark.parametrize(("workers", "placement", "dtype", "max_batch", "with_mask", "density"), CASES)
def test_random_plans(workers, placement, dtype, max_batch, with_mask, density):
    network = transformer(workers, with_mask)
    plan = small_plans.random_plan(network, workers, placement, workers, density)
    assert_computes(small_plans.pruned(network, plan), plan, max_batch, dtype)


@pytest.mark.parametrize(
    ("workers", "placement", "dtype", "budget", "with_mask"),
    covering(WORKERS[:2], PLACEMENTS, list(TOLERANCE), (0.2, 1.0), (False, True)),
)
def test_restructured_networks(workers, placement, dtype, budget, with_mask):
    """With 0.2, without norms, whose sums cannot be pruned."""
    network = transformer(1, with_mask, with_norms=budget == 1.0)
    options = Options(workers, budget, placement)
    cut = from_root(lambda: restructure(network, Samples.of(samples(network, 60, 0)), options))
    assert_computes(cut.network, cut.plan, 3, dtype)
    if budget == 1.0:
        x = samples(network, 3)
        np.testing.assert_allclose(forward(cut.network, x), forward(network, x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_nothing_pruned(placement):
    network = transformer(2)
    assert_computes(network, dense_plan(network, COMM.size, placement, np.ones(COMM.size)), 4)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("workers", WORKERS)
def test_workers_without_a_head(workers, placement):
    """The last two of several workers own nothing but parts of the inputs."""
    network = transformer(3)
    plan = small_plans.random_plan(network, workers, placement, 3)
    owners = {
        space.name: owner
        if space.name in network.input_spaces
        else np.minimum(owner, max(workers - 3, 0)).astype(np.int32)
        for space in network.free_spaces
        for owner in [plan.owners[space.name]]
    }
    owners = network.derive(owners)
    plan = Plan(workers, placement, owners, small_plans.random_masks(network, owners, workers, seed=3))
    assert_computes(small_plans.pruned(network, plan), plan, 3)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_one_of_several_inputs_has_its_neurons_behind(placement):
    """A vector, a sequence (positions, features), and maps whose neurons are between two axes."""
    draw = Draw(4)
    builder = draw.builder
    vector, sequence = builder.input("vector", 3), builder.input("sequence", 4, (5,))
    maps = builder.input("maps", 2, (3, 2))
    read = draw.attention("a", sequence, 2, 1)
    whole = draw.mixing("maps.m", maps, 2, pointwise((3, 2)))
    whole = builder.rearrange("flat", whole, np.arange(5), (5,))
    row = draw.mixing("row", vector, 2)
    joined = builder.select("joined", (read, whole), np.arange(8))
    outputs = draw.mixing("last", joined, 3, pointwise((5,))), draw.mixing("classes", row, 2)
    axes = {sequence: 1, maps: 1, outputs[0]: 1}
    network = builder.build(outputs, ("identity",) * 2, axes=axes)
    plan = small_plans.random_plan(network, COMM.size, placement, 4)
    assert_computes(small_plans.pruned(network, plan), plan, 3)
