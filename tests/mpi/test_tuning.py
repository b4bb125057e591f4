"""Forward and backward passes on any number of ranks are those of the whole network in one process."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from helpers import small_plans
from helpers.covering import covering
from helpers.example_operations import NETWORKS
from helpers.random_cases import cases
from helpers.roots import from_root
from helpers.small_graphs import branching_network, convolutional_network, filtered_network
from helpers.tuned import RankPasses, gradients_of
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.chain import sequence
from repurpose_hpc.model.comm_dtype import COMM_DTYPES, EXACT
from repurpose_hpc.model.forward import apply_heads, forward
from repurpose_hpc.model.operations import Depthwise, Mixing
from repurpose_hpc.plan.plan import PLACEMENTS, Plan
from repurpose_hpc.plan.rounding import rounded_compute
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.runtime.buffers import Part
from repurpose_hpc.runtime.exchange.transport import TRANSPORTS
from repurpose_hpc.runtime.exchange.transports import available
from repurpose_hpc.runtime.resources import Formats
from repurpose_hpc.tuning.losses import squared_error
from repurpose_hpc.tuning.optimisers import OPTIMISERS, Hyperparameters

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
TOLERANCE = {np.float64: 1e-11, np.float32: 1e-4}
# Ranks host a worker each, or several.
MORE_WORKERS = (0, 3)


def samples(network, count, seed=5):
    return np.random.default_rng(seed).standard_normal((count, network.inputs))


def random_case(network, workers, placement="partitioned", seed=1, density=0.4):
    """The network without the weights for which a random plan does not provide, and the plan."""
    plan = small_plans.random_plan(network, workers, placement, seed, density)
    return small_plans.pruned(network, plan), plan


def assert_near(found, expected, tolerance, name=""):
    scale = max(1, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale, err_msg=name)


def assert_same_mixings(found, expected, tolerance):
    """And the same filters."""
    for mine, theirs in zip(found.operations, expected.operations, strict=True):
        if isinstance(mine, Mixing | Depthwise):
            for name in ("weights", "bias"):
                assert_near(getattr(mine, name), getattr(theirs, name), tolerance, f"{mine.name} {name}")


def check_passes(ranks: RankPasses, network, x, seed=0, tolerance=1e-11):
    """Outputs and gradients of a batch, against those of the whole network."""
    y, expected = apply_heads(network, ranks.forward(x)), forward(network, x)
    assert_near(y, expected, tolerance)
    g = np.random.default_rng(seed).normal(size=expected.shape)
    assert_same_mixings(ranks.gradients(g), gradients_of(network, x, g), tolerance)


def check_network(network, plan, max_batch=4, **options):
    """Batches of several sizes, one after the other."""
    ranks = RankPasses(network, plan, max_batch, **options)
    for count in (max_batch, 1):
        check_passes(ranks, network, samples(network, count, count), count, 1e-10)
    ranks.passes.free()


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(case=cases())
@settings(max_examples=12)
def test_passes_are_those_of_the_whole_network(dtype, case):
    ranks = RankPasses(case.network, case.plan, case.max_batch, dtype=dtype)
    for first in range(0, len(case.x), case.max_batch):
        x = case.x[first : first + case.max_batch]
        check_passes(ranks, case.network, x, first, TOLERANCE[dtype])
    ranks.passes.free()


@pytest.mark.parametrize("transport", TRANSPORTS)
@given(case=cases())
@settings(max_examples=4)
def test_every_transport(transport, case):
    if transport not in available(COMM):
        pytest.skip("this MPI has no such collective")
    ranks = RankPasses(case.network, case.plan, case.max_batch, transport=transport)
    for _ in range(3):
        check_passes(ranks, case.network, case.x[: case.max_batch])
    ranks.passes.free()


@pytest.mark.parametrize("name", NETWORKS)
@given(
    more_workers=st.integers(0, 5),
    placement=st.sampled_from(PLACEMENTS),
    density=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=3)
def test_networks_of_all_kinds(name, more_workers, placement, density, seed):
    network = NETWORKS[name]()
    check_network(*random_case(network, COMM.size + more_workers, placement, seed, density))


@pytest.mark.parametrize("more_workers", MORE_WORKERS)
def test_two_mixings_that_read_one_tensor(more_workers):
    """The second has ghosts of its own beside those of the first, and some of these."""
    network = convolutional_network(4)
    assert [mixing.source for mixing in network.mixings].count("both.y") == 2
    for density in (0.2, 0.7):
        check_network(*random_case(network, COMM.size + more_workers, density=density))


@pytest.mark.parametrize("more_workers", MORE_WORKERS)
def test_filters_of_the_input(more_workers):
    """They are tuned, though there is no mixing before them; not where every worker has a copy of them."""
    network, workers = filtered_network(1), COMM.size + more_workers
    check_network(*random_case(network, workers))
    passes = RankPasses(*random_case(network, workers, "replicated"), 3).passes
    has_copies = any(parameter.name.startswith("d ") for parameter in passes.parameters)
    assert has_copies == (workers == 1)
    passes.free()


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("more_workers", MORE_WORKERS)
def test_workers_that_own_nothing(more_workers, placement):
    network, workers = branching_network(2), COMM.size + more_workers
    plan = small_plans.random_plan(network, workers, placement, 2)
    owners = network.derive(
        {
            space.name: owner
            if space.name in network.input_spaces
            else np.minimum(owner, max(workers - 3, 0)).astype(np.int32)
            for space in network.free_spaces
            for owner in [plan.owners[space.name]]
        }
    )
    plan = Plan(workers, placement, owners, small_plans.random_masks(network, owners, workers, seed=2))
    check_network(small_plans.pruned(network, plan), plan)


@pytest.mark.parametrize(
    ("make", "has", "fields"),
    [
        (
            lambda: small_plans.random_network(5, (23, 40, 50, 6), "identity"),
            "removed",
            {"compute_budget": 0.4},
        ),
        (lambda: small_plans.random_network(5, (23, 37, 30, 6), "identity"), "relays", {}),
        (convolutional_network, "relays", {}),
    ],
    ids=["removed", "relays", "relays of maps"],
)
@pytest.mark.parametrize("more_workers", [0, 1])
def test_restructured_networks(make, has, fields, more_workers):
    """With relays, neurons that were removed, and a worker that owns nothing but its part of the input."""
    network, workers, rng = make(), COMM.size + more_workers, np.random.default_rng(0)
    x = rng.standard_normal((200, network.inputs)) @ rng.standard_normal((network.inputs,) * 2)
    weights = (1.0,) * (workers - 1) + (0.0,) if workers > 2 else None
    options = Options(
        workers, 0.1, "partitioned", part_weights=weights, forms=("ghosts", "sums", "relays"), **fields
    )
    cut = from_root(lambda: restructure(network, Samples.of(x / np.sqrt(network.inputs)), options))
    assert workers == 1 or getattr(cut.plan, has)
    check_network(cut.network, cut.plan)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_what_is_sent(placement):
    """Forward what an inference sends; back the same, but for the inputs, by which nothing is derived."""
    network, plan = random_case(convolutional_network(1), COMM.size, placement)
    passes = RankPasses(network, plan, 3).passes
    sent = {mixing.source: 0 for mixing in network.mixings}
    for mixing in network.mixings:
        sent[mixing.source] += plan.values_sent(network, mixing)
    there, back = COMM.allreduce(np.array(passes.values_sent()))
    passes.free()
    assert there == sum(sent.values())
    assert back <= there and (back < there or COMM.size == 1 or placement == "replicated")


def inner(first, second):
    """The inner product of arrays, over all ranks."""
    return COMM.allreduce(sum(np.vdot(x, y) for x, y in zip(first, second, strict=True)))


@pytest.mark.parametrize(
    ("transport", "placement", "more_workers"), covering(TRANSPORTS, PLACEMENTS, MORE_WORKERS)
)
def test_the_way_back_is_the_transpose_of_the_way_there(transport, placement, more_workers):
    """<A x, y> = <x, At y>, of all links at the same time, for what changes from batch to batch."""
    if transport not in available(COMM):
        pytest.skip("this MPI has no such collective")
    network, plan = random_case(convolutional_network(2), COMM.size + more_workers, placement)
    passes, rng = RankPasses(network, plan, 3, transport=transport).passes, np.random.default_rng(COMM.rank)
    links, crossed = passes._links, 0.0
    for part in (Part(3), Part(1), Part(3)):
        there = carried(passes, [(link.there, link.values) for link in links], part, rng)
        back = carried(passes, [(link.back, link.adjoints) for link in links], part, rng)
        for link, (x, Ax), (y, Aty) in zip(links, there, back, strict=True):
            product = inner(Ax, y)
            assert product == pytest.approx(inner(x, Aty), rel=1e-12, abs=1e-12), link.tensor
            crossed += abs(product)
    passes.free()
    assert crossed > 0 or plan.workers == 1


def carried(passes, chosen, part, rng):
    """What random values become by transfers: of each, the arrays given, and those that came of them.

    What sums are added to counts as given and as got: to the values of their owners, which are 0 at first.
    """
    transfers, ends = passes.transfers, []
    for transfer, values in chosen:
        given, came = [values.view(part)], [buffer.view(part) for buffer in transfer.buffers]
        if not transfer.sender_owns:
            given, came = came, given
        for array in came:
            array[...] = 0
        transfers.begin(transfer, part)  # from now on something may come
        for array in given:
            array[...] = rng.standard_normal(array.shape)
        ends.append((transfer, [array.copy() for array in given], came))
    for transfer, *_ in ends:
        transfers.post(transfer, part)
    for transfer, *_ in ends:
        transfers.complete(transfer, part)
    return [(given, [array.copy() for array in came]) for _, given, came in ends]


@pytest.mark.parametrize(
    ("make", "wire", "more_workers"),
    covering([branching_network, convolutional_network], COMM_DTYPES, MORE_WORKERS),
)
def test_ghosts_in_fewer_bits(make, wire, more_workers):
    """Outputs are those of an inference; gradients go through the rounding and are finite."""
    network = make(1)
    plan = small_plans.random_plan(network, COMM.size + more_workers, "partitioned", 1)
    plan = small_plans.with_outliers(network, small_plans.scaled(network, plan, wire=wire))
    network = small_plans.pruned(network, plan)
    ranks = RankPasses(network, plan, 3, formats=Formats(comm_dtype=wire))
    x = samples(network, 3)
    y = ranks.forward(x)
    expected = forward(network, x, compute=rounded_compute(network, plan, wire))
    assert_near(apply_heads(network, y), expected, 1e-9)
    found = ranks.gradients(np.ones_like(y))
    assert all(np.isfinite(mixing.weights).all() for mixing in found.mixings)
    assert any(mixing.bias.any() for mixing in found.mixings[:-1])
    ranks.passes.free()


@pytest.mark.parametrize("wire", COMM_DTYPES)
def test_derivatives_go_straight_through_rounding(wire):
    """Where nothing is bent, derivatives by the tensors are those without rounding, to the last digits."""
    rng, widths = np.random.default_rng(3), (9, 13, 11, 4)
    layers = [(rng.standard_normal((m, n)) / 3, rng.standard_normal(m)) for n, m in pairwise(widths)]
    network = sequence(widths[0], layers)
    plan = small_plans.random_plan(network, COMM.size + 2, "partitioned", 1)
    plan = small_plans.scaled(network, plan, wire=wire)
    network = small_plans.pruned(network, plan)
    ranks, x = RankPasses(network, plan, 3, formats=Formats(comm_dtype=wire)), samples(network, 3)
    g = np.random.default_rng(0).standard_normal(ranks.forward(x).shape)
    found, expected = ranks.gradients(g), gradients_of(network, x, g)
    ranks.passes.free()
    for mine, theirs in zip(found.mixings, expected.mixings, strict=True):
        assert_near(mine.bias, theirs.bias, 1e-12)
        if wire == EXACT:
            assert_near(mine.weights, theirs.weights, 1e-12)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("make", [branching_network, convolutional_network])
def test_tuning_is_the_same_on_any_ranks(make, optimiser):
    """Losses and weights of some steps, against those of one process with all workers."""
    network, plan = random_case(make(3), max(COMM.size, 4) + 1)
    (losses, weights), (alone, expected) = (tuned(network, plan, comm, optimiser) for comm in (COMM, None))
    np.testing.assert_allclose(losses, alone, rtol=1e-9)
    assert losses[-1] < losses[0]
    assert_same_mixings(weights, expected, 1e-7)
    zero = [mixing.weights == 0 for mixing in network.mixings]
    assert all((mixing.weights[each] == 0).all() for mixing, each in zip(weights.mixings, zero, strict=True))


def tuned(network, plan, comm, optimiser):
    """The losses of some steps of a batch each, and the network behind them."""
    ranks, rng = RankPasses(network, plan, 5, comm), np.random.default_rng(4)
    x, wanted = samples(network, 10), rng.standard_normal((10, network.outputs))
    given = OPTIMISERS[optimiser](Hyperparameters(weight_decay=0.01))
    ranks.forward(x[:5])
    squares, losses = ranks.passes.squares(), []
    sizes = {name: np.sqrt(total / count) for name, (total, count) in squares.items()}

    def update(parameter, gradient):
        size = 1.0 if parameter.reads is None else sizes[parameter.reads]
        given.update(parameter.name, parameter.values, gradient, parameter.reads is not None, size)

    for step in range(6):
        batch = slice(5 * (step % 2), 5 * (step % 2) + 5)
        given.begin_step(1e-3)
        loss, gradient = squared_error(ranks.forward(x[batch]), wanted[batch])
        ranks.backward(gradient, update)
        losses.append(loss)
    ranks.passes.free()
    return [np.mean(losses[first : first + 2]) for first in (0, 2, 4)], ranks.tuned()
