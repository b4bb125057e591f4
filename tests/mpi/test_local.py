"""Local losses on any ranks: those of the whole network in one process, and what crosses for them."""

import numpy as np
import pytest
from mpi4py import MPI

from helpers import small_plans
from helpers.covering import covering
from helpers.small_graphs import (
    branching_network,
    convolutional_network,
    filtered_network,
    normalised_network,
    residual_network,
)
from helpers.tuned import RankPasses, assert_near, chain, gradients_by, random_case, relayed
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.io.spooled import Spooled
from repurpose_hpc.model.forward import flat, joined_values, split_values, trace
from repurpose_hpc.mpi.groups import Groups
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.tuning import local as module
from repurpose_hpc.tuning.copies import Copies
from repurpose_hpc.tuning.driver import Tuning, parted
from repurpose_hpc.tuning.links import Transfers
from repurpose_hpc.tuning.local import LocalLosses, cuts_of
from repurpose_hpc.tuning.options import TuneOptions
from repurpose_hpc.tuning.targets import of_outputs

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
MORE_WORKERS = (0, 3)
SAMPLES = 23


def drawn(network, count=SAMPLES):
    return np.random.default_rng(5).standard_normal((count, network.inputs))


def local_losses(original, passes, x, groups=None, batch_size=4):
    return LocalLosses(original, Samples.of(x), passes, groups or Groups(COMM), batch_size)


def own(ranks, name, tensor):
    """This rank's rows of a whole tensor."""
    return tensor[ranks.passes._hosting.neurons(ranks.passes._graph.space_of[name])]


def local_gradients(network, original, x, g, cuts):
    """Gradients in plain NumPy: of gᵀ outputs, and at cuts of the mean relative error of a sample.

    Cuts are constants for all that reads them.
    """
    tensors, right = (trace(each, np.ascontiguousarray(x.T)) for each in (network, original))
    adjoints = {}
    for name in cuts:
        error, size = tensors[name] - right[name], np.sqrt(np.mean(tensors[name] ** 2))
        error[np.abs(error) <= 3e-5 * size] = 0
        adjoints[name] = 2 * error / (len(x) * network.size(name) * size**2)
    for name, rows in zip(
        network.output_tensors, split_values(network, network.output_tensors, g.T), strict=True
    ):
        adjoints[name] = adjoints.get(name, 0) + rows
    for op in reversed(network.operations):
        if op.target not in adjoints:
            continue
        by_sources = op.vjp(adjoints[op.target], tensors[op.target], *(tensors[each] for each in op.sources))
        for source, by_source in zip(op.sources, by_sources, strict=True):
            if source not in cuts:
                adjoints[source] = adjoints.get(source, 0) + by_source
    by_mixing = {mixing.name: adjoints[mixing.target] for mixing in network.mixings}
    return gradients_by(network, tensors, by_mixing)


CASES = [
    chain,
    branching_network,
    convolutional_network,
    filtered_network,
    residual_network,
    normalised_network,
]


@pytest.mark.parametrize(("make", "more_workers"), covering([*CASES, relayed], MORE_WORKERS))
def test_gradients_are_those_of_the_whole_network(make, more_workers):
    original, network, plan = relayed() if make is relayed else random_case(make, more_workers)
    cuts, x = cuts_of(network, original), drawn(original, 6)
    ranks = RankPasses(network, plan, 6, cuts=cuts)
    g = np.random.default_rng(2).standard_normal(ranks.forward(x).shape)
    with local_losses(original, ranks.passes, x) as local:
        squares = ranks.passes.squares()
        sizes = {name: np.sqrt(total / count) for name, (total, count) in squares.items()}
        others = local.derivatives(np.arange(6), sizes, 1 / 6)
    found, expected = ranks.gradients(g, others), local_gradients(network, original, x, g, cuts)
    ranks.passes.free()
    assert cuts
    for mine, theirs in zip(found.mixings, expected.mixings, strict=True):
        np.testing.assert_allclose(mine.weights, theirs.weights, rtol=0, atol=1e-10, err_msg=mine.name)
        np.testing.assert_allclose(mine.bias, theirs.bias, rtol=0, atol=1e-10, err_msg=mine.name)


@pytest.mark.parametrize(("make", "count"), covering(CASES, [SAMPLES, 3]))
def test_targets_are_the_activations_of_the_original(make, count):
    """Of more or fewer batches than ranks; and outputs on the root."""
    original, network, plan = random_case(make, 3)
    ranks, x = RankPasses(network, plan, 4, cuts=cuts_of(network, original)), drawn(original, count)
    right, chosen = trace(original, np.ascontiguousarray(x.T)), np.array([2, 0, 1])
    with local_losses(original, ranks.passes, x) as local:
        for name in local.names:
            expected = flat(own(ranks, name, right[name])[:, chosen]).T
            np.testing.assert_allclose(local.values(name, chosen), expected, rtol=0, atol=1e-12)
        assert (local.outputs is None) == (COMM.rank > 0)
        if local.outputs is not None:
            outputs = [joined_values(original, name, right[name]) for name in original.output_tensors]
            np.testing.assert_allclose(local.outputs, np.concatenate(outputs).T, rtol=0, atol=1e-12)
    ranks.passes.free()


@pytest.mark.parametrize("make", CASES)
def test_no_ghosts_go_back_at_cuts(make, monkeypatch):
    """Not one transfer is begun for them; what is sent of sums is as it was."""
    original, network, plan = random_case(make, 3)
    everywhere = tuple(dict.fromkeys(mixing.source for mixing in network.mixings))
    begun, begin = [], Transfers.begin

    def recorded(self, transfer, part):
        begun.append(transfer)
        begin(self, transfer, part)

    monkeypatch.setattr(Transfers, "begin", recorded)
    for cuts in (cuts_of(network, original), everywhere):
        ranks, x = RankPasses(network, plan, 6, cuts=cuts), drawn(original, 6)
        y, passes = ranks.forward(x), ranks.passes
        begun.clear()
        ranks.backward(np.ones_like(y), lambda parameter, gradient: None, {})
        links, sums = passes._ghosts, [mixing.sums for mixing in passes._mixings.values()]
        assert not {links[name].back for name in cuts} & {*begun}
        there, back = COMM.allreduce(np.array(passes.values_sent()))
        free = [link for name, link in links.items() if name not in {*cuts, *network.input_tensors}]
        expected = sum(link.back.exchange.values_sent for link in [*free, *sums])
        made_of_inputs = [link for link in free if link.tensor not in passes._followed]
        expected -= sum(link.back.exchange.values_sent for link in made_of_inputs)
        assert back == COMM.allreduce(expected) and (there > 0 or COMM.size == 1)
        passes.free()
    assert not free


def tuned(case, comm, groups=1, optimiser="adamw"):
    """Losses of two epochs, the last one on held-out samples, the network behind them, and where it began."""
    original, network, plan = case
    x, options = (
        drawn(original, 58),
        TuneOptions(epochs=2, batch_size=13, groups=groups, optimiser=optimiser, learning_rate=0.01),
    )
    shares = Groups(comm, groups)
    copies = Copies(shares)
    ranks = RankPasses(network, plan, 13, copies.comm, cuts=cuts_of(network, original))
    samples, passes = Samples.of(x), ranks.passes
    with local_losses(original, passes, x, shares) as local:
        targets = None if local.outputs is None else of_outputs(network, samples, local.outputs)
        with Spooled(samples, passes.input_columns, np.dtype(np.float64)) as spooled:
            tuning = Tuning(passes, spooled, targets, parted(58, options), options, copies, local)
            losses = [tuning.judged()[0], tuning.epoch(1), tuning.epoch(2), tuning.judged()[0]]
    found = ranks.tuned()
    passes.free()
    shares.free()
    return losses, found, local


@pytest.mark.parametrize("make", [chain, convolutional_network])
def test_tuning_is_the_same_on_any_ranks(make):
    case = random_case(make, max(COMM.size, 4) + 1 - COMM.size)
    (losses, network, local), (expected, alone, _) = tuned(case, COMM), tuned(case, None)
    assert losses == pytest.approx(expected, rel=1e-8) and (make is not chain or losses[-1] < losses[0])
    assert_near(network, alone, 1e-6)
    assert local.names and local.starts is None


@pytest.mark.parametrize("groups", [groups for groups in range(2, COMM.size + 1) if COMM.size % groups == 0])
def test_groups_share_the_samples_of_a_batch(groups):
    case = random_case(chain, 1)
    (losses, network, _), (expected, alone, _) = tuned(case, COMM, groups), tuned(case, None)
    assert losses == pytest.approx(expected, rel=1e-8)
    assert_near(network, alone, 1e-6)


@pytest.mark.parametrize("more_workers", MORE_WORKERS)
def test_what_has_lost_nothing_is_not_run(monkeypatch, more_workers):
    """The first mixing has all its inputs: steps begin behind it, and change all others as they would."""
    original, network, plan = random_case(chain, max(more_workers, 2 - COMM.size), "replicated")
    first, *others = network.mixings
    everything = small_plans.random_masks(original, plan.owners, plan.workers, 1.0)
    plan = Plan(plan.workers, "replicated", plan.owners, {**plan.mixings, first.name: everything[first.name]})
    case = original, small_plans.pruned(original, plan), plan
    losses, found, local = tuned(case, COMM, optimiser="sgd")
    assert local.starts == (others[0].source,) and local.names == (others[1].source,)
    monkeypatch.setattr(LocalLosses, "leave_out_exact", lambda self, errors: None)
    expected, whole, local = tuned(case, COMM, optimiser="sgd")
    assert local.starts is None and local.names == tuple(mixing.source for mixing in others[:2])
    assert losses == pytest.approx(expected, rel=1e-8)
    assert_near(found, whole)
    np.testing.assert_array_equal(found.mixings[0].weights, original.mixings[0].weights)


@pytest.mark.parametrize("count", sorted({1, COMM.size}))
def test_without_room_all_ranks_know(monkeypatch, count):
    """Those of other groups, too."""
    original, network, plan = random_case(chain)
    groups = Groups(COMM, count)
    ranks = RankPasses(network, plan, 4, groups.inside, cuts=cuts_of(network, original))

    def full(self, rows, first):
        raise UserError("no room")

    if COMM.rank == COMM.size - 1:
        monkeypatch.setattr(module.TemporaryRows, "write", full)
    with pytest.raises(UserError, match="no room"):
        local_losses(original, ranks.passes, drawn(original), groups)
    ranks.passes.free()
    groups.free()


def test_what_the_shards_are_made_of(monkeypatch):
    """Another plan's shards with one mixing alone have no cuts: they are tuned to their outputs."""
    original = small_plans.random_network(0, (12, 5), "identity")
    plan = small_plans.random_plan(original, COMM.size, "replicated")
    losses, _, local = tuned((original, small_plans.pruned(original, plan), plan), COMM)
    assert local.names == () and np.isfinite(losses).all()
