"""Runs with weights in fewer bits are those of the numbers that they stand for, in each part of a block."""

from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from helpers.covering import covering
from helpers.programs import run_program
from helpers.roots import by_root
from helpers.small_graphs import Draw, convolutional_network, residual_network, square_window
from helpers.stored_weights import rounded
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.comm_dtype import EXACT, INT8, STEPS, WEIGHTS_DTYPES
from repurpose_hpc.model.forward import apply_heads, forward
from repurpose_hpc.plan.plan import PLACEMENTS
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.runtime.hosting import hosted_workers
from repurpose_hpc.runtime.program import Program
from repurpose_hpc.runtime.resources import Formats

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
COUNT = 7
ROUNDING = WEIGHTS_DTYPES[1:]
# One worker for each rank, or several, of which ranks host different numbers.
MORE_WORKERS = (0, 3)


def grouped_network():
    """A convolution in two groups, zeros between them, and one that is wider than a vector of neurons."""
    draw, size = Draw(4), (6, 5)
    image = draw.builder.input("image", 6, size)
    weights, bias = draw.weights(20, 6 * 9)
    weights.reshape(2, 10, 2, 27)[[0, 1], :, [1, 0]] = 0
    tensor = draw.builder.mixing("grouped", image, weights, bias, square_window(size))
    return draw.builder.build(
        (draw.mixing("strided", tensor, 40, square_window(size, stride=2)),), ("identity",)
    )


NETWORKS = {
    "everything": convolutional_network(1),
    "residual": residual_network(1, channels=20),
    "grouped": grouped_network(),
}


def random_cut(name, workers, placement="partitioned"):
    """Random owners and masks, ghosts and sums."""
    network = NETWORKS[name]
    plan = small_plans.random_plan(network, workers, placement, 5)
    return Cut(small_plans.pruned(network, plan), plan)


@by_root
def restructured(name, workers, **fields):
    """A budget of communication, and of computation, so that columns are not used."""
    network, rng = NETWORKS[name], np.random.default_rng(0)
    x = rng.standard_normal((150, network.inputs)) @ rng.standard_normal((network.inputs,) * 2)
    samples = Samples.of(x.reshape(150, *network.input_shape) / np.sqrt(network.inputs))
    return restructure(network, samples, Options(workers, 0.1, "partitioned", **fields))


def rounded_block(block, weights_dtype):
    """``block`` with the numbers that its weights stand for in another format."""
    names = ("own_weights", "ghost_weights", "sum_weights")
    return replace(block, **{name: rounded(getattr(block, name), weights_dtype) for name in names})


def outputs(cut, x, max_batch=COUNT, deterministic=True, weights_dtype=EXACT, rounding=None, **options):
    """Outputs of the ranks in float32, before the heads; on every rank.

    Args:
        deterministic: else clocks choose how numbers are multiplied.
        weights_dtype: of the program.
        rounding: the format for whose numbers the weights are replaced; None: they are as they were.
    """
    shards = [
        make_shard(cut.network, cut.plan, worker)
        for worker in hosted_workers(cut.plan.workers, COMM.size, COMM.rank)
    ]
    if rounding is not None:
        shards = [
            replace(shard, blocks={k: rounded_block(block, rounding) for k, block in shard.blocks.items()})
            for shard in shards
        ]
    formats = Formats(weights_dtype)
    program = Program(shards, COMM, max_batch, formats=formats, deterministic=deterministic, **options)
    y = run_program(program, cut.network, x)
    program.free()
    return y


def assert_rounded(cut, weights_dtype, all_direct=False):
    """To the last bit, but for dense layers in int8, whose scales multiply sums."""
    x = np.random.default_rng(1).standard_normal((COUNT, cut.network.inputs))
    expected = outputs(cut, x, rounding=weights_dtype)
    largest = np.abs(expected).max()
    assert np.abs(outputs(cut, x) - expected).max() > 1e-5 * largest
    tolerance = 0 if all_direct or weights_dtype != INT8 else 3e-6 * largest
    for max_batch, parts in ((1, 1), (3, 2), (COUNT, 1)):
        found = outputs(cut, x, max_batch, weights_dtype=weights_dtype, micro_batches=parts)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("more_workers", MORE_WORKERS)
@pytest.mark.parametrize("weights_dtype", ROUNDING)
def test_convolutions(weights_dtype, more_workers):
    assert_rounded(random_cut("grouped", COMM.size + more_workers), weights_dtype, all_direct=True)


@pytest.mark.parametrize("more_workers", MORE_WORKERS)
@pytest.mark.parametrize(("name", "weights_dtype", "placement"), covering(NETWORKS, ROUNDING, PLACEMENTS))
def test_ghosts_and_sums(name, weights_dtype, placement, more_workers):
    assert_rounded(random_cut(name, COMM.size + more_workers, placement), weights_dtype)


@pytest.mark.parametrize("more_workers", MORE_WORKERS)
@pytest.mark.parametrize("weights_dtype", ROUNDING)
def test_relays(weights_dtype, more_workers):
    cut = restructured("everything", COMM.size + more_workers, forms=("ghosts", "sums", "relays"))
    assert cut.plan.relays or COMM.size + more_workers == 1
    assert_rounded(cut, weights_dtype)


@pytest.mark.parametrize("more_workers", MORE_WORKERS)
@pytest.mark.parametrize("weights_dtype", ROUNDING)
def test_columns_that_are_not_used(weights_dtype, more_workers):
    assert_rounded(restructured("residual", COMM.size + more_workers, compute_budget=0.4), weights_dtype)


@pytest.mark.parametrize("more_workers", MORE_WORKERS)
@pytest.mark.parametrize(("name", "weights_dtype"), covering(NETWORKS, ROUNDING))
def test_as_programs_run_by_default(name, weights_dtype, more_workers):
    """What is multiplied how, clocks decide; near the reference of the weights as they were."""
    cut = random_cut(name, COMM.size + more_workers)
    x = np.random.default_rng(1).standard_normal((COUNT, cut.network.inputs))
    y = outputs(cut, x, 3, deterministic=False, weights_dtype=weights_dtype)
    y = apply_heads(cut.network, y)
    expected = forward(cut.network, x)
    error = np.abs(y - expected).max() / np.abs(expected).max()
    assert 1e-6 < error < 4 * STEPS[weights_dtype]
