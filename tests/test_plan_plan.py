"""Traffic and owners of a plan, against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.model.network import sequence
from repurpose_hpc.plan.plan import (
    EVERYBODY,
    GHOST,
    PARTIAL,
    PLACEMENTS,
    MixingPlan,
    Plan,
    capacities,
    contiguous_owners,
    input_owners,
    single_worker_plan,
)
from repurpose_hpc.plan.shard import make_shard

PART_WEIGHTS = st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(any).map(np.array)


@st.composite
def plans(draw, form=None):
    """A mixing between two spaces with random owners and a random mask: (network, plan)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, m, workers = draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(st.integers(1, 6))
    network = sequence(n, [(rng.normal(size=(m, n)), rng.normal(size=m))])
    form = form or draw(st.sampled_from([GHOST, PARTIAL]))
    owners = {
        "input": rng.integers(workers, size=n, dtype=np.int32),
        "layer0": rng.integers(workers, size=m, dtype=np.int32),
    }
    mask = rng.random((workers, n if form == GHOST else m)) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    return network, Plan(workers, "partitioned", owners, {"layer0": MixingPlan(form, mask)})


@given(plans())
def test_traffic_counts_what_the_mask_needs_from_others(case):
    network, plan = case
    (mixing,) = network.mixings
    form, mask = plan.mixings["layer0"].form, plan.mixings["layer0"].mask
    owner = plan.owners["input" if form == GHOST else "layer0"]
    expected = np.zeros((plan.workers, plan.workers), int)
    for worker, neuron in itertools.product(range(plan.workers), range(owner.size)):
        if mask[worker, neuron] and owner[neuron] != worker:
            ends = (owner[neuron], worker) if form == GHOST else (worker, owner[neuron])
            expected[ends] += 1
    np.testing.assert_array_equal(plan.traffic(network, mixing), expected)
    assert plan.values_sent(network, mixing) == expected.sum()


@given(plans(GHOST))
def test_dense_values_are_those_of_a_full_mask(case):
    network, plan = case
    (mixing,) = network.mixings
    mask = np.ones((plan.workers, network.inputs), bool)
    full = Plan(plan.workers, "partitioned", plan.owners, {"layer0": MixingPlan(GHOST, mask)})
    assert plan.dense_values(network, mixing) == full.values_sent(network, mixing)


@given(plans(GHOST))
def test_a_replicated_input_is_free(case):
    network, plan = case
    owners = {**plan.owners, "input": np.full(network.inputs, EVERYBODY, np.int32)}
    plan = Plan(plan.workers, "replicated", owners, plan.mixings)
    assert plan.values_sent(network, network.mixings[0]) == 0
    assert plan.dense_values(network, network.mixings[0]) == 0
    for worker, mask in enumerate(plan.mixings["layer0"].mask):
        shard = make_shard(network, plan, worker)
        assert shard.own["input"].tolist() == np.flatnonzero(mask).tolist()
        assert shard.steps[0].sent.size == shard.steps[0].received.size == 0


@given(plans())
def test_what_one_worker_sends_another_receives(case):
    network, plan = case
    blocks = [make_shard(network, plan, worker).steps[0] for worker in range(plan.workers)]
    traffic = plan.traffic(network, network.mixings[0])
    for p, q in itertools.product(range(plan.workers), repeat=2):
        sent = blocks[p].sent[blocks[p].sent_to == q]
        np.testing.assert_array_equal(sent, blocks[q].received[blocks[q].received_from == p])
        assert sent.size == traffic[p, q]


@given(plans())
def test_identity_tells_plans_apart(case):
    _, plan = case
    mixing = plan.mixings["layer0"]
    changed = mixing.mask.copy()
    changed[0, 0] ^= True
    other = Plan(plan.workers, "partitioned", plan.owners, {"layer0": MixingPlan(mixing.form, changed)})
    assert plan.identity() == Plan(plan.workers, "partitioned", plan.owners, plan.mixings).identity()
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
    np.testing.assert_array_equal(shard.steps[0].own_weights, network.mixings[0].weights)
    assert shard.steps[0].remote_weights.size == 0
