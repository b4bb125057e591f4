"""Subnets on any ranks: those of a network in plain NumPy that has the sampled neurons, too."""

from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from helpers.covering import covering
from helpers.small_graphs import (
    branching_network,
    convolutional_network,
    normalised_network,
    residual_network,
)
from helpers.tuned import RankPasses, assert_near, chain, gradients_of, random_case, relayed
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.io.spooled import Spooled
from repurpose_hpc.model.forward import outputs, trace
from repurpose_hpc.model.operations import Depthwise, Mixing
from repurpose_hpc.mpi.groups import Groups
from repurpose_hpc.plan.shard import local_neurons
from repurpose_hpc.tuning.copies import Copies
from repurpose_hpc.tuning.driver import Diverged, Tuning, parted
from repurpose_hpc.tuning.options import TuneOptions
from repurpose_hpc.tuning.rotation import ROTATED, Rotations
from repurpose_hpc.tuning.subnets import drawn, sampled_spaces, widened
from repurpose_hpc.tuning.targets import of_outputs, outputs_of

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
SEED = 7


def rotations(original, plan, ranks, every=3):
    return Rotations(original, plan, ranks.shards, ranks.passes, every, SEED)


def with_sampled(original, network, plan, epoch, number):
    """A network that has all subnets, made weight by weight.

    A sampled neuron is read by, and reads, neurons that its worker has; own ones as the plan has it.
    """
    bare = without_weights(network)
    samples = drawn(plan, bare, sampled_spaces(bare, original), (SEED, epoch, number, 3))
    has_several = any(len(np.unique(plan.owners[name])) > 1 for name in samples)
    assert any(part.size for sample in samples.values() for part in sample.of_workers) == has_several
    has = [local_neurons(network, plan, worker) for worker in range(plan.workers)]
    known, mixings = {mixing.name: mixing for mixing in original.mixings}, {}

    def everything(space):
        """Of each number its neuron, and the worker that has sampled it; None: the space's own."""
        found = [(neuron, None) for neuron in range(network.space(space).neurons)]
        sample = samples.get(network.space_of[space])
        parts = () if sample is None else sample.of_workers
        return found + [(neuron, worker) for worker, part in enumerate(parts) for neuron in part.tolist()]

    for mixing in network.mixings:
        rows, columns = everything(mixing.target), everything(mixing.source)
        weights = np.zeros((len(rows), len(columns), mixing.taps))
        own, before = (
            None if op is None else op.weights.reshape(len(op.weights), -1, mixing.taps)
            for op in (mixing, known.get(mixing.name))
        )
        owner, allowed = plan.owner(network, mixing.target), plan.allowed(network, mixing)
        for i, (row, row_of) in enumerate(rows):
            for j, (column, column_of) in enumerate(columns):
                if row_of is None and column_of is None:
                    weights[i, j] = own[row, column]
                elif before is not None:
                    worker = owner[row] if row_of is None else row_of
                    there = column in has[worker][network.space_of[mixing.source]]
                    is_pruned = row_of is not None or not allowed[row, column]
                    if is_pruned and (column_of == worker or (column_of is None and there)):
                        weights[i, j] = before[row, column]
        bias = np.array(
            [
                mixing.bias[row] if worker is None else 0 if before is None else known[mixing.name].bias[row]
                for row, worker in rows
            ]
        )
        mixings[mixing.name] = replace(mixing, weights=weights.reshape(len(rows), -1), bias=bias)
    return widened(bare, samples).with_mixings(mixings)


def without_weights(network):
    """As shards have it: the network without those of mixings."""
    mixings = {
        mixing.name: replace(mixing, weights=mixing.weights[:0, :0], bias=mixing.bias[:0])
        for mixing in network.mixings
    }
    return network.with_mixings(mixings)


def gradients_of_subnets(ranks, subnets, g):
    """This rank's gradients of the plan's parameters, in their place, on every rank."""
    found, weights = {}, {}
    rows = ranks._outputs.scatter(g if COMM.rank == 0 else None, len(g))
    subnets.backward(rows, lambda parameter, gradient: found.update({parameter.name: gradient}))
    for parameter in ranks.passes.parameters:
        weights[parameter.name] = parameter.values.copy()
        parameter.values[...] = parameter.masked(found[parameter.name])
    gradients = ranks.tuned()
    for parameter in ranks.passes.parameters:
        parameter.values[...] = weights[parameter.name]
    return gradients


CASES = [chain, branching_network, convolutional_network, residual_network, normalised_network]


@pytest.mark.parametrize(
    ("make", "more_workers", "placement"),
    covering([*CASES, relayed], (0, 3), ("partitioned", "replicated", "root")),
)
def test_gradients_are_those_of_a_network_with_the_sampled_neurons(make, more_workers, placement):
    original, network, plan = relayed() if make is relayed else random_case(make, more_workers, placement)
    ranks, x = RankPasses(network, plan, 6), np.random.default_rng(5).standard_normal((6, original.inputs))
    turns = rotations(original, plan, ranks)
    X = np.ascontiguousarray(x.T[ranks.passes.input_columns])
    for epoch, step in ((1, 2), (1, 5)):
        subnets = turns.at(epoch, step, 0.0)
        assert subnets._passes.values_sent() == ranks.passes.values_sent()
        whole = with_sampled(original, network, plan, epoch, step // 3)
        tensors = trace(whole, np.ascontiguousarray(x.T))
        y = ranks._outputs.gather(subnets.forward(X))
        expected = outputs(whole, tensors).T
        if y is not None:
            np.testing.assert_allclose(y, expected, rtol=0, atol=1e-10)
        g = np.random.default_rng(2).standard_normal(expected.shape)
        found, gradients = gradients_of_subnets(ranks, subnets, g), gradients_of(whole, x, g)
        for op, mine, theirs in zip(network.operations, found.operations, gradients.operations, strict=True):
            if isinstance(op, Depthwise) or (isinstance(op, Mixing) and not op.fixed):
                m, columns = op.weights.shape
                by_weights = np.where(op.weights == 0, 0, theirs.weights[:m, :columns])
                np.testing.assert_allclose(mine.weights, by_weights, rtol=0, atol=1e-10, err_msg=op.name)
                np.testing.assert_allclose(mine.bias, theirs.bias[:m], rtol=0, atol=1e-10, err_msg=op.name)
    turns.free()
    ranks.passes.free()


def tuned(case, comm, groups=1, optimiser="adamw", learning_rate=0.01):
    """Losses of two epochs, the last one on held-out samples, the network behind them, and what was sent."""
    original, network, plan = case
    x = np.random.default_rng(5).standard_normal((58, original.inputs))
    words = {"optimiser": optimiser, "learning_rate": learning_rate}
    options = TuneOptions(epochs=2, batch_size=7, groups=groups, **words)
    shares = Groups(comm, groups)
    copies = Copies(shares)
    ranks, samples = RankPasses(network, plan, 7, copies.comm), Samples.of(x)
    wanted = outputs_of(original, samples, np.dtype(np.float64), 7)
    targets = of_outputs(network, samples, wanted) if ranks.passes.is_root else None
    with Spooled(samples, ranks.passes.input_columns, np.dtype(np.float64)) as spooled:
        turns = rotations(original, plan, ranks)
        tuning = Tuning(ranks.passes, spooled, targets, parted(58, options), options, copies, None, turns)
        losses = [tuning.judged()[0], tuning.epoch(1), tuning.epoch(2), tuning.judged()[0]]
    found, sent = ranks.tuned(), tuning.values_sent
    tuning.free()
    shares.free()
    return losses, found, sent


@pytest.mark.parametrize("make", [chain, convolutional_network, relayed])
def test_tuning_is_the_same_on_any_ranks(make):
    """And writes no weight that the plan does not have."""
    case = relayed() if make is relayed else random_case(make, max(COMM.size, 4) + 1 - COMM.size)
    _, network, plan = case
    (losses, found, sent), (expected, alone, _) = tuned(case, COMM), tuned(case, None)
    assert losses == pytest.approx(expected, rel=1e-8) and (make is not chain or losses[-1] < losses[0])
    assert_near(found, alone, 1e-6)
    for mine, before in zip(found.mixings, network.mixings, strict=True):
        np.testing.assert_array_equal(mine.weights == 0, before.weights == 0)
    planned = sum(plan.values_sent(network, mixing) for mixing in network.mixings)
    if COMM.size == plan.workers:
        assert COMM.allreduce(sent[0]) == planned


@pytest.mark.parametrize(
    "groups", [groups for groups in range(2, min(COMM.size, 7) + 1) if COMM.size % groups == 0]
)
def test_groups_share_the_samples_of_a_batch(groups):
    case = random_case(chain, 1)
    (losses, network, _), (expected, alone, _) = tuned(case, COMM, groups), tuned(case, None)
    assert losses == pytest.approx(expected, rel=1e-8)
    assert_near(network, alone, 1e-6)


def test_a_loss_that_is_not_finite_ends_all_ranks():
    with pytest.raises(Diverged, match="of epoch 1; try a lower learning rate"), np.errstate(all="ignore"):
        tuned(random_case(chain, 1), COMM, optimiser="sgd", learning_rate=1e150)


def test_when_subnets_are_drawn():
    """Every K steps and with every epoch; the last steps have none."""
    original, network, plan = random_case(chain, 2)
    ranks = RankPasses(network, plan, 4)
    turns = rotations(original, plan, ranks)
    steps = [(1, 0), (1, 2), (1, 3), (1, 5), (2, 0)]
    found = [turns.at(*step, 0.0) for step in steps]
    assert found[0] is found[1] and found[2] is found[3]
    assert len({id(subnets) for subnets in found}) == 3
    assert turns.at(2, 1, ROTATED - 0.01) is found[-1] and turns.at(2, 1, ROTATED) is None
    taken = turns.weights
    assert taken > 0 and turns.at(2, 2, 1.0) is None and turns.weights == pytest.approx(taken * 7 / 8)
    ranks.passes.free()
