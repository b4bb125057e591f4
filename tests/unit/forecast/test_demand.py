"""What a forecast counts: against the shards, and against plans where there are some."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.small_graphs import (
    branching_network,
    convolutional_network,
    residual_network,
    spiking_network,
)
from helpers.small_plans import pruned, random_masks, random_network, random_plan
from repurpose_hpc.forecast.demand import Demand, LocalDemand, MixingDemand, held_counts, plan_demand
from repurpose_hpc.forecast.scaled import (
    budget_profile,
    dense_profile,
    expected_traffic,
    merged,
    plan_profile,
    scaled_demand,
)
from repurpose_hpc.model.comm_dtype import BITS, COMM_DTYPES
from repurpose_hpc.plan.plan import PLACEMENTS, Plan, dense_plan
from repurpose_hpc.plan.rounds import rounds_before
from repurpose_hpc.plan.shard import make_shard

NETWORKS = (random_network, residual_network, convolutional_network)
TRAFFIC = ("messages_out", "messages_in", "values_out", "values_in")


def _mixings(demand: Demand) -> list[MixingDemand]:
    return [step for step in demand.steps if isinstance(step, MixingDemand)]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("make", NETWORKS)
def test_a_demand_is_that_of_the_shards(make, placement):
    network = make(seed=2)
    plan = random_plan(network, 3, placement, seed=3)
    network = pruned(network, plan)
    demand = plan_demand(network, plan, per_node=1)
    for worker in range(3):
        shard = make_shard(network, plan, worker)
        for mixing, step in zip(network.mixings, _mixings(demand), strict=True):
            block = shard.blocks[mixing.name]
            assert block.own_weights.shape == (step.rows[worker], step.own_depth[worker])
            assert block.ghost_weights.shape[1] == step.ghost_depth[worker]
            assert len(block.sum_weights) == step.sum_rows[worker]
            values = network.values(mixing.source), network.values(mixing.target)
            exchanged = (block.ghosts, step.ghosts), (block.sums, step.sums)
            for (lists, traffic), each in zip(exchanged, values, strict=True):
                assert traffic.values_out[:, worker].sum() == lists.sent.size * each
                assert traffic.values_in[:, worker].sum() == lists.received.size * each
                assert traffic.messages_out[:, worker].sum() == np.unique(lists.sent_to).size
                assert traffic.messages_in[:, worker].sum() == np.unique(lists.received_from).size


@pytest.mark.parametrize("make", NETWORKS)
def test_a_demand_sends_what_the_plan_sends(make):
    network = make(seed=1)
    plan = random_plan(network, 4, "partitioned", seed=1)
    demand = plan_demand(pruned(network, plan), plan, per_node=2)
    assert demand.values_sent == sum(plan.values_sent(network, mixing) for mixing in network.mixings)
    sent = [plan.traffic(network, mixing) for mixing in network.mixings]
    near = sum(each[:2, :2].sum() + each[2:, 2:].sum() for each in sent)
    assert near == sum(s.ghosts.values_out[0].sum() + s.sums.values_out[0].sum() for s in _mixings(demand))


def test_branches_exchange_together():
    """Three rounds; a pair that sends anything in one of them sends one message, near or far."""
    network = branching_network()
    plan = random_plan(network, 4, "partitioned", seed=1, density=0.2)
    demand = plan_demand(pruned(network, plan), plan, per_node=2)
    rounds = rounds_before(network, [mixing.name for mixing in network.mixings])
    sent = [np.zeros((4, 4)) for _ in range(3)]
    for mixing in network.mixings:
        sent[rounds[mixing.source]] += plan.traffic(network, mixing)
    assert [each.messages_out.sum() for each in demand.exchanges] == [np.count_nonzero(each) for each in sent]
    assert demand.messages < sum(
        np.count_nonzero(plan.traffic(network, mixing)) for mixing in network.mixings
    )


@pytest.mark.parametrize("wire", COMM_DTYPES)
@pytest.mark.parametrize("make", NETWORKS)
def test_bytes_are_those_of_the_wire(make, wire):
    """Of ghosts; sums travel as they are."""
    network = make(seed=1)
    plan = random_plan(network, 4, "partitioned", seed=1)
    demand = plan_demand(pruned(network, plan), plan, 2, wire)
    for name in ("bytes_out", "bytes_in"):
        assert sum(getattr(each, name).sum() for each in demand.exchanges) == plan.bytes_sent(network, wire)
    scaled = scaled_demand(network, plan_profile(network, plan), "partitioned", 40, 1, wire)
    sent = sum(each.bytes_out.sum() for each in scaled.exchanges)
    ghosts, sums = (
        sum(getattr(step, kind).values_out.sum() for step in _mixings(scaled)) for kind in ("ghosts", "sums")
    )
    assert sent == pytest.approx(BITS[wire] / 8 * ghosts + 4 * sums)


@pytest.mark.parametrize("wire", COMM_DTYPES)
def test_spikes_are_bits_on_any_wire(wire):
    network = spiking_network(1)
    plan = random_plan(network, 4, "replicated", seed=1)
    demand = plan_demand(network, plan, 2, wire)
    sent = plan.bytes_sent(network, wire)
    assert (
        sum(each.bytes_out.sum() for each in demand.exchanges) == sent == plan.bytes_sent(network, "float32")
    )
    scaled = scaled_demand(network, plan_profile(network, plan), "replicated", 8, 1, wire)
    for step in _mixings(scaled)[1:]:
        assert step.ghosts.bytes_out.sum() == pytest.approx(step.ghosts.values_out.sum() / 8)


def test_merged_messages_are_what_is_expected_of_independent_exchanges():
    rng, chances, trials = np.random.default_rng(0), (0.2, 0.5), 20_000
    apart = [expected_traffic(np.ones(4), np.full(4, chance), 1, per_node=2) for chance in chances]
    pairs = [rng.random((trials, 4, 4)) < chance for chance in chances]
    either = np.mean(pairs[0] | pairs[1], axis=0) * (1 - np.eye(4))
    whole = merged(apart, per_node=2)
    np.testing.assert_allclose(whole.messages_out.sum(axis=0), either.sum(axis=1), atol=0.02)
    np.testing.assert_allclose(whole.messages_in.sum(axis=0), either.sum(axis=0), atol=0.02)


@pytest.mark.parametrize("workers", [1, 2, 3, 8, 17, 40])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_scaled_dense_demands_are_those_of_dense_plans(workers, placement):
    network = random_network(seed=4)
    plan = dense_plan(network, workers, placement, np.ones(workers))
    expected = plan_demand(network, plan, per_node=3)
    found = scaled_demand(network, dense_profile(network, placement), placement, workers, per_node=3)
    for a, b in zip(_mixings(expected), _mixings(found), strict=True):
        for name in ("rows", "own_depth", "ghost_depth", "sum_rows"):
            busy = a.rows + a.sum_rows > 0
            np.testing.assert_allclose(getattr(b, name)[busy], getattr(a, name)[busy], err_msg=name)
        for name in TRAFFIC:
            np.testing.assert_allclose(getattr(b.ghosts, name), getattr(a.ghosts, name), err_msg=name)
            np.testing.assert_allclose(getattr(b.sums, name), getattr(a.sums, name), err_msg=name)


@pytest.mark.parametrize("make", NETWORKS)
def test_a_scaled_demand_keeps_the_sparsity_of_its_plan(make):
    network = make(seed=5)
    owners = dense_plan(network, 2, "partitioned", np.ones(2)).owners
    plan = Plan(2, "partitioned", owners, random_masks(network, owners, 2, seed=5))
    network = pruned(network, plan)
    profile, planned = plan_profile(network, plan), plan_demand(network, plan, 1)
    few, many = (scaled_demand(network, profile, "partitioned", workers, 1) for workers in (2, 40))
    assert few.values_sent == pytest.approx(planned.values_sent)
    np.testing.assert_allclose(few.weights, planned.weights)
    assert few.messages == pytest.approx(planned.messages, rel=0.2)
    assert many.messages <= many.values_sent * (1 + 1e-9)
    for step in _mixings(many):
        for traffic in (step.ghosts, step.sums):
            assert traffic.values_out.sum() == pytest.approx(traffic.values_in.sum())
            assert traffic.messages_out.sum() == pytest.approx(traffic.messages_in.sum())


@pytest.mark.parametrize("make", NETWORKS)
def test_one_rank_sends_nothing(make):
    network = make(seed=0)
    demand = scaled_demand(network, budget_profile(network, "partitioned", 0.1), "partitioned", 1, 1)
    assert (demand.values_sent, demand.messages) == (0, 0)
    assert not any(step.ghosts.active or step.sums.active for step in _mixings(demand))


def test_a_budget_is_a_fraction_of_the_dense_values():
    network = random_network(widths=(40, 50, 60, 50))
    dense = scaled_demand(network, dense_profile(network, "partitioned"), "partitioned", 10, 1)
    wide = [*network.mixings][:2]
    budget = scaled_demand(network, budget_profile(network, "partitioned", 0.1), "partitioned", 10, 1)
    for step, full in zip(_mixings(budget)[: len(wide)], _mixings(dense), strict=False):
        assert step.ghosts.values_out.sum() == pytest.approx(0.1 * full.ghosts.values_out.sum())


def test_ten_thousand_ranks():
    network = convolutional_network()
    demand = scaled_demand(network, budget_profile(network, "replicated", 0.1), "replicated", 10_000, 64)
    assert all(step.values.sum() > 0 for step in demand.steps if isinstance(step, LocalDemand))
    assert demand.weights.shape == (10_000,)


def test_messages_are_what_is_expected_of_independent_neurons():
    own, wanted, rng = np.array([3, 5, 2]), np.array([0.1, 0.4, 0.8]), np.random.default_rng(0)
    traffic = expected_traffic(own, wanted, values=1, per_node=2)
    owner, trials = np.repeat(np.arange(3), own), 20_000
    masks = rng.random((trials, 3, 10)) < wanted[:, None]
    pairs = np.stack([masks[:, :, owner == p].any(axis=2).mean(axis=0) for p in range(3)])
    np.fill_diagonal(pairs, 0)
    np.testing.assert_allclose(traffic.messages_out.sum(axis=0), pairs.sum(axis=1), atol=0.02)
    np.testing.assert_allclose(
        traffic.messages_in[1], [pairs[2, 0], pairs[2, 1], pairs[:2, 2].sum()], atol=0.02
    )
    np.testing.assert_allclose(traffic.values_in.sum(axis=0), wanted * (10 - own))


def test_removed_neurons_are_held_by_nobody():
    network = random_network(widths=(12, 20, 16, 6))
    owners = dense_plan(network, 2, "partitioned", np.ones(2)).owners
    plan = Plan(2, "partitioned", owners, random_masks(network, owners, 2, density=0.0, seed=5))
    (space, *_) = (s for s in network.free_spaces if s.neurons == 20)
    removed = np.arange(20) % 5 == 0
    fewer = replace(plan, removed={space.name: removed})
    whole, rest = (held_counts(network, p)[space.name] for p in (plan, fewer))
    assert (whole - rest).tolist() == np.bincount(owners[space.name][removed], minlength=2).tolist()
    makes, reads = _mixings(plan_demand(fewer.pruned(network), fewer, 1))[:2]
    assert makes.rows.tolist() == reads.own_depth.tolist() == rest.tolist()
