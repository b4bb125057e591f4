"""The exchange of a layer as linear operators: they compose to the layer, and count what is sent."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import block_diag

import repurpose_hpc as rp
from helpers.small_plans import pruned, random_network, random_plan, write_shards
from repurpose_hpc.plan.operators import ExchangeOperators
from repurpose_hpc.plan.plan import PLACEMENTS


class Cut:
    def __init__(self, network, plan):
        self.network, self.plan = network, plan


@given(
    seed=st.integers(0, 99),
    workers=st.integers(1, 9),
    placement=st.sampled_from(PLACEMENTS),
    density=st.sampled_from([0.0, 0.2, 1.0]),
)
@settings(max_examples=25)
def test_a_layer_is_composed_of_them(seed, workers, placement, density):
    network = random_network(seed)
    plan = random_plan(network, workers, placement, seed, density)
    cut = Cut(pruned(network, plan), plan)
    for mixing in cut.network.mixings:
        operators = rp.exchange_operator(cut, mixing.name)
        assert isinstance(operators, ExchangeOperators)
        weights = block_diag([operators.block(q, mixing.W) for q in range(workers)])
        whole = operators.reduce @ weights @ operators.gather
        np.testing.assert_array_equal(whole.toarray(), mixing.W)
        x, g = np.random.default_rng(seed).normal(size=(2, operators.gather.shape[1]))
        y = operators.gather @ x
        assert y @ (operators.gather @ g) == pytest.approx(x @ (operators.gather.T @ operators.gather @ g))


def test_what_is_gathered_beyond_own_neurons_is_what_is_sent():
    network = random_network(3)
    plan = random_plan(network, 4, "partitioned", 3)
    for mixing in network.mixings:
        operators = rp.exchange_operator(Cut(network, plan), mixing.name)
        n, m = operators.gather.shape[1], operators.reduce.shape[0]
        ghosts, sums = operators.gather.shape[0] - n, operators.reduce.shape[1] - m
        assert ghosts + sums == plan.mixings[mixing.name].ghosts.sum() + plan.mixings[mixing.name].sums.sum()
        assert ghosts + sums == plan.values_sent(network, mixing)


def test_shards_do_as_well_as_what_they_were_made_of(tmp_path):
    network, plan = write_shards(tmp_path / "shards", 3, "partitioned")
    mixing = network.mixings[1]
    sources = tmp_path / "shards", Cut(network, plan)
    stored, made = (rp.exchange_operator(source, mixing.name) for source in sources)
    assert (stored.gather != made.gather).nnz == (stored.reduce != made.reduce).nnz == 0


def test_what_there_is_not_is_refused():
    network = random_network(1)
    with pytest.raises(rp.UserError, match="layer: expected one of .*, got 'nine'"):
        rp.exchange_operator(Cut(network, random_plan(network, 3, "partitioned", 1)), "nine")
