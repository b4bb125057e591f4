"""Traffic and owners of a plan, against brute force."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import small_plans
from helpers.small_graphs import Draw
from repurpose_hpc.model.chain import sequence
from repurpose_hpc.model.comm_dtype import COMM_DTYPES
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.assemble import assemble
from repurpose_hpc.plan.masks import EVERYBODY, GHOST, MIXED, PARTIAL, ghost_plan, mixing_plan, partial_plan
from repurpose_hpc.plan.plan import (
    PLACEMENTS,
    Plan,
    capacities,
    contiguous_owners,
    dense_plan,
    input_owners,
    single_worker_plan,
)
from repurpose_hpc.plan.shard import make_shard

PART_WEIGHTS = st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(any).map(np.array)


DENSITIES = st.sampled_from([0.0, 0.3, 1.0])


@st.composite
def plans(draw, placements=("replicated", "partitioned")):
    """A mixing between two spaces with random owners and random masks: (network, plan)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, m, workers = draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(st.integers(1, 6))
    network = sequence(n, [(rng.normal(size=(m, n)), rng.normal(size=m))])
    source, target = (
        rng.integers(workers, size=n, dtype=np.int32),
        rng.integers(workers, size=m, dtype=np.int32),
    )
    placement = draw(st.sampled_from(placements))
    if placement == "replicated":
        source[:] = EVERYBODY
    ghosts, sums = rng.random((workers, n)) < draw(DENSITIES), rng.random((workers, m)) < draw(DENSITIES)
    owners = {"input": source, "layer0": target}
    return network, Plan(workers, placement, owners, {"layer0": mixing_plan(ghosts, sums, source, target)})


def ends(plan):
    """Masks and owners of the only mixing: (plan of the mixing, source owner, target owner)."""
    return plan.mixings["layer0"], plan.owners["input"], plan.owners["layer0"]


@given(plans())
def test_traffic_counts_what_the_masks_need_from_others(case):
    network, plan = case
    (mixing,) = network.mixings
    masks, source, target = ends(plan)
    expected = np.zeros((plan.workers, plan.workers), int)
    for q, j in np.argwhere(masks.ghosts):
        if source[j] not in (q, EVERYBODY):
            expected[source[j], q] += 1
    for p, i in np.argwhere(masks.sums):
        if target[i] != p:
            expected[p, target[i]] += 1
    np.testing.assert_array_equal(plan.traffic(network, mixing), expected)
    assert plan.values_sent(network, mixing) == expected.sum()


@given(plans())
def test_allowed_weights_are_own_or_of_ghosts_or_in_sums(case):
    network, plan = case
    masks, source, target = ends(plan)
    kept = plan.allowed(network, network.mixings[0])
    for i, j in np.ndindex(kept.shape):
        p, q = source[j], target[i]
        expected = p == q or masks.ghosts[q, j] or (p != EVERYBODY and masks.sums[p, i])
        assert kept[i, j] == expected


@given(plans())
def test_own_entries_are_cleared_and_mean_nothing(case):
    network, plan = case
    masks, source, target = ends(plan)
    own_ghosts, own_sums = (np.arange(plan.workers)[:, None] == owner for owner in (source, target))
    assert not (masks.ghosts & own_ghosts).any()
    assert not (masks.sums & own_sums).any()
    again = mixing_plan(masks.ghosts | own_ghosts, masks.sums | own_sums, source, target)
    assert (
        Plan(plan.workers, plan.input_placement, plan.owners, {"layer0": again}).identity() == plan.identity()
    )


@given(plans())
def test_scales_stand_beside_the_neurons_that_travel(case):
    network, plan = case
    (mixing,) = network.mixings
    scales = np.arange(1, mixing.weights.shape[1] + 1, dtype=np.float32)
    scaled = replace(plan, scales={mixing.source: scales})
    assert scaled.has_scales and not plan.has_scales
    for worker in range(plan.workers):
        block = make_shard(network, scaled, worker).blocks[mixing.name]
        np.testing.assert_array_equal(block.sent_scales, scales[block.ghosts.sent])
        np.testing.assert_array_equal(block.received_scales, scales[block.ghosts.received])
        block = make_shard(network, plan, worker).blocks[mixing.name]
        assert block.sent_scales.size == block.received_scales.size == 0


@given(plans())
def test_identity_tells_comm_dtypes_and_scales_apart(case):
    network, plan = case
    (mixing,) = network.mixings
    scales = {mixing.source: np.ones(mixing.weights.shape[1], np.float32)}
    outliers = {mixing.source: np.ones(mixing.weights.shape[1], bool)}
    others = [
        replace(plan, comm_dtype="int8"),
        replace(plan, comm_dtype="int4"),
        replace(plan, scales=scales),
        replace(plan, outliers=outliers),
        replace(plan, removed=outliers),
    ]
    assert len({each.identity() for each in (plan, *others)}) == 6


@given(plans())
def test_bytes_are_counted_message_by_message(case):
    network, plan = case
    for one in (plan, small_plans.with_outliers(network, plan)):
        for wire in COMM_DTYPES:
            sums = sum(int(plan.sum_traffic(network, mixing).sum()) for mixing in network.mixings)
            assert one.bytes_sent(network, wire) == small_plans.ghost_bytes(network, one, wire) + 4 * sums


@given(plans())
def test_what_arrives_is_the_ghosts_of_others(case):
    network, plan = case
    masks, source, target = ends(plan)
    arriving = plan.arriving(network, network.mixings[0])
    for i, j in np.ndindex(arriving.shape):
        assert arriving[i, j] == (source[j] not in (EVERYBODY, target[i]) and masks.ghosts[target[i], j])


@given(plans(["partitioned"]))
def test_form_says_what_travels(case):
    masks, source, target = ends(case[1])
    ghosts, sums = ghost_plan(masks.ghosts, source, target), partial_plan(masks.sums, source, target)
    assert ghosts.form == GHOST
    assert sums.form == (PARTIAL if masks.sums.any() else GHOST)
    used = masks.ghosts.any(), masks.sums.any()
    assert masks.form == {(True, True): MIXED, (False, True): PARTIAL}.get(used, GHOST)


@given(plans())
def test_every_weight_is_in_one_shard(case):
    network, plan = case
    (mixing,) = network.mixings
    kept = plan.allowed(network, mixing)
    weights = np.where(kept, mixing.weights, 0)
    pruned = network.with_mixings(
        {mixing.name: Mixing(mixing.name, mixing.source, mixing.target, weights, mixing.bias)}
    )
    shards = [make_shard(pruned, plan, worker, np.float64) for worker in range(plan.workers)]
    held = 0
    for block in (shard.blocks["layer0"] for shard in shards):
        held += sum(map(np.count_nonzero, (block.own_weights, block.ghost_weights, block.sum_weights)))
    assert held == np.count_nonzero(kept)
    np.testing.assert_array_equal(assemble(shards).mixings[0].weights, weights)
    np.testing.assert_array_equal(assemble(shards).mixings[0].bias, mixing.bias)


@given(plans(["partitioned"]))
def test_dense_values_are_those_of_a_full_mask(case):
    network, plan = case
    (mixing,) = network.mixings
    _, source, target = ends(plan)
    full = ghost_plan(np.ones((plan.workers, network.inputs), bool), source, target)
    full = Plan(plan.workers, "partitioned", plan.owners, {"layer0": full})
    assert plan.dense_values(network, mixing) == full.values_sent(network, mixing)


@given(plans(["replicated"]))
def test_a_replicated_input_is_free(case):
    network, plan = case
    masks, source, target = ends(plan)
    plan = Plan(plan.workers, "replicated", plan.owners, {"layer0": ghost_plan(masks.ghosts, source, target)})
    assert plan.values_sent(network, network.mixings[0]) == 0
    assert plan.dense_values(network, network.mixings[0]) == 0
    for worker, mask in enumerate(masks.ghosts):
        shard = make_shard(network, plan, worker)
        assert shard.own["input"].tolist() == np.flatnonzero(mask).tolist()
        lists = shard.blocks["layer0"].ghosts, shard.blocks["layer0"].sums
        assert not any(each.sent.size or each.received.size for each in lists)


@given(plans())
def test_what_one_worker_sends_another_receives(case):
    network, plan = case
    blocks = [make_shard(network, plan, worker).blocks["layer0"] for worker in range(plan.workers)]
    traffic = plan.traffic(network, network.mixings[0])
    for p, q in itertools.product(range(plan.workers), repeat=2):
        crossing = 0
        pairs = (blocks[p].ghosts, blocks[q].ghosts), (blocks[p].sums, blocks[q].sums)
        for sender, receiver in pairs:
            sent = sender.sent[sender.sent_to == q]
            np.testing.assert_array_equal(sent, receiver.received[receiver.received_from == p])
            crossing += sent.size
        assert crossing == traffic[p, q]


@given(plans(), st.sampled_from(["ghosts", "sums"]))
def test_identity_tells_plans_apart(case, name):
    _, plan = case
    changed = getattr(plan.mixings["layer0"], name).copy()
    changed[0, 0] ^= True
    other = replace(plan, mixings={"layer0": replace(plan.mixings["layer0"], **{name: changed})})
    assert plan.identity() == replace(plan).identity()
    assert plan.identity() != other.identity()


@given(st.integers(1, 10_000), PART_WEIGHTS)
def test_capacities_are_shares_rounded_up(neurons, part_weights):
    expected = [-(-neurons * weight // part_weights.sum()) for weight in part_weights.tolist()]
    assert capacities(neurons, part_weights).tolist() == expected
    assert sum(expected) >= neurons


@given(st.integers(1, 1000), PART_WEIGHTS)
def test_contiguous_owners_are_ascending_and_within_the_capacities(neurons, part_weights):
    owner = contiguous_owners(neurons, part_weights)
    assert owner.dtype == np.int32
    assert owner.shape == (neurons,)
    assert (np.diff(owner) >= 0).all()
    held = np.bincount(owner, minlength=part_weights.size)
    assert (held <= capacities(neurons, part_weights)).all()


@given(st.integers(1, 1000), st.integers(1, 9))
def test_equal_weights_make_equal_blocks(neurons, workers):
    held = np.bincount(contiguous_owners(neurons, np.ones(workers)), minlength=workers)
    assert held.max() - held.min() <= 1


@pytest.mark.parametrize(
    ("placement", "expected"),
    list(zip(PLACEMENTS, ([EVERYBODY] * 4, [0, 0, 1, 1], [0] * 4), strict=True)),
)
def test_input_owners(placement, expected):
    assert input_owners(4, placement, np.ones(2)).tolist() == expected


@given(plans())
def test_a_single_worker_has_everything(case):
    network, _ = case
    shard = make_shard(network, single_worker_plan(network), 0, np.float64)
    np.testing.assert_array_equal(shard.blocks["layer0"].own_weights, network.mixings[0].weights)
    assert shard.blocks["layer0"].ghost_weights.size == shard.blocks["layer0"].sum_weights.size == 0


def test_dense_plan_sends_no_sums_of_what_is_sent_anyhow():
    draw = Draw(0)
    x = draw.builder.input("input", 8)
    outputs = draw.mixing("narrow", x, 2), draw.mixing("wide", x, 20)
    network = draw.builder.build(outputs, ("identity",) * 2)
    plan = dense_plan(network, 4, "partitioned", np.ones(4))
    assert [plan.values_sent(network, mixing) for mixing in network.mixings] == [8 * 3, 0]
