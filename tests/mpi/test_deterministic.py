"""Deterministic programs: the bits of outputs are those of one rank, of any batch, and of any transport."""

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from helpers import small_plans
from helpers.covering import covering
from helpers.programs import counting, make_program, run_program
from helpers.random_cases import cases
from helpers.roots import by_root, from_root
from helpers.small_graphs import convolutional_network, residual_network
from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.chain import sequence
from repurpose_hpc.plan.plan import PLACEMENTS, Plan
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.runtime.exchange.transports import available
from repurpose_hpc.runtime.resources import Formats
from repurpose_hpc.runtime.schedule import threads as parallel
from repurpose_hpc.runtime.session import Session

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
SAMPLES = 70
WIDTHS = (60, 90, 70, 80, 10)
# One worker for each rank, or several, of which ranks host different numbers.
MORE_WORKERS = (0, 3, 8)
# Sizes of batches and their parts, that are tried one after the other.
BATCHES = (((1, 1), (33, 5), (SAMPLES, 1)), ((3, 2), (13, 1), (SAMPLES, 3)))


def dense_network(kind="relu"):
    draw, steps = np.random.default_rng(0), []
    for n, m in zip(WIDTHS, WIDTHS[1:], strict=False):
        steps += [(draw.normal(size=(m, n)) / np.sqrt(n), draw.normal(size=m)), Activation(kind)]
    return sequence(WIDTHS[0], steps)


def sparse_network():
    """So few weights that some blocks are faster in CSR for one sample, some for many."""
    network, draw = dense_network(), np.random.default_rng(1)
    kept = {each.name: draw.random(each.weights.shape) < share for each, share in _with_shares(network)}
    return network.with_mixings(
        {each.name: replace(each, weights=each.weights * kept[each.name]) for each in network.mixings}
    )


def _with_shares(network):
    return zip(network.mixings, (0.05, 0.1, 0.14, 0.2), strict=True)


NETWORKS = {
    "dense": dense_network,
    "curved": lambda: dense_network("gelu_tanh"),
    "sparse": sparse_network,
    "maps": lambda: convolutional_network(1),
    "wide maps": lambda: residual_network(1, channels=20),
}
FORMATS = (
    Formats(),
    Formats("int8", "bfloat16"),
    Formats("bfloat16", "int8"),
    Formats("float16", "float16"),
    Formats("int8", "int4"),
)


@by_root
def cut(name, workers, placement="partitioned"):
    """A network, its plan and samples; the same on all ranks."""
    network = NETWORKS[name]()
    plan = small_plans.scaled(network, small_plans.random_plan(network, workers, placement, 5))
    plan = small_plans.with_outliers(network, plan)
    x = np.random.default_rng(3).standard_normal((SAMPLES, network.inputs))
    return small_plans.pruned(network, plan), plan, x


def outputs(network, plan, x, max_batch, comm=COMM, **options):
    """Outputs of a deterministic program, their bits as integers, on every rank."""
    options = {"dtype": np.float32, **options}
    program = make_program(network, plan, max_batch, comm, deterministic=True, **options)
    y = run_program(program, network, x, comm).astype(options["dtype"])
    program.free()
    return y.view(f"u{y.itemsize}")


def outputs_alone(network, plan, x, **options):
    """The same of one process, for batches of all samples."""
    return from_root(lambda: outputs(network, plan, x, len(x), MPI.COMM_SELF, **options))


def assert_same(found, expected):
    """The same bits; told as numbers of those that differ, on the rank that sees it."""
    assert np.count_nonzero(found != expected) == 0


@pytest.mark.parametrize(
    ("name", "formats", "more_workers", "batches"), covering(NETWORKS, FORMATS, MORE_WORKERS, BATCHES)
)
def test_any_ranks_batches_and_parts(name, formats, more_workers, batches):
    network, plan, x = cut(name, COMM.size + more_workers)
    expected = outputs_alone(network, plan, x, formats=formats)
    for max_batch, parts in batches:
        assert_same(outputs(network, plan, x, max_batch, formats=formats, micro_batches=parts), expected)


@pytest.mark.parametrize("more_workers", MORE_WORKERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_any_transport(name, more_workers):
    network, plan, x = cut(name, COMM.size + more_workers)
    expected = outputs_alone(network, plan, x)
    for transport in available(COMM):
        assert_same(outputs(network, plan, x, 16, transport=transport), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_any_place_in_a_batch_and_any_threads(name):
    network, plan, x = cut(name, COMM.size + 1)
    expected = outputs_alone(network, plan, x)
    order = np.random.default_rng(7).permutation(SAMPLES)
    assert_same(outputs(network, plan, x[order], 17), expected[order])
    with mock.patch.object(parallel, "LEAST_WORK", 0):
        assert_same(outputs(network, plan, x, 17, threads=2), expected)


@given(
    case=cases(),
    dtype=st.sampled_from([np.float32, np.float64]),
    parts=st.integers(1, 4),
    transport=st.sampled_from(sorted(available(COMM))),
)
@settings(max_examples=60)
def test_random_plans(case, dtype, parts, transport):
    expected = outputs_alone(case.network, case.plan, case.x, dtype=dtype)
    options = {"dtype": dtype, "micro_batches": parts, "transport": transport}
    assert_same(outputs(case.network, case.plan, case.x, case.max_batch, **options), expected)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_workers_that_own_nothing(placement):
    """The last two own nothing; the last rank may host these alone."""
    workers = COMM.size + 2
    network, plan, x = cut("maps", workers, placement)
    free = {space.name: plan.owners[space.name] for space in network.free_spaces}
    few = {name: np.minimum(owner, workers - 3) for name, owner in free.items() if (owner >= 0).all()}
    owners = network.derive({**free, **few})
    plan = Plan(workers, placement, owners, small_plans.random_masks(network, owners, workers, seed=2))
    network = small_plans.pruned(network, plan)
    expected = outputs_alone(network, plan, x)
    assert_same(outputs(network, plan, x, 9), expected)


def test_every_workers_sums_travel_by_themselves():
    """What it costs: a rank does not add up the sums of its workers, and counts what it sends."""
    network, plan, x = cut("dense", COMM.size + 8)
    sent = {}
    for deterministic in (False, True):
        program = make_program(network, plan, 8, deterministic=deterministic)
        with counting() as handed:
            run_program(program, network, x[:8])
        counted = COMM.allreduce(np.array([program.values_sent * 8, handed.values.sum()]))
        assert counted[0] == counted[1]
        sent[deterministic] = counted[0]
        program.free()
    assert sent[True] > sent[False] or COMM.size == 1


@pytest.mark.parametrize("name", ["curved", "maps"])
def test_sessions(name):
    """Of maps the first output has a softmax, whose sums are NumPy's."""
    network, plan, x = cut(name, COMM.size + 2)
    results = []
    for comm, batch_size in ((None, SAMPLES), (MPI.COMM_SELF, 7), (COMM, 16), (COMM, 1)):
        with Session(Cut(network, plan), comm, batch_size=batch_size, deterministic=True) as session:
            y = session.run(x)
        if y is not None:
            results.append([part.tobytes() for part in (y if isinstance(y, tuple) else (y,))])
    assert all(each == results[0] for each in results)
