"""Which neurons subnets have: drawn at random, of spaces that allow it."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import small_plans
from helpers.small_graphs import (
    branching_network,
    convolutional_network,
    normalised_network,
    residual_network,
    transformer,
)
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.network import Network
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.tuning.subnets import SHARE, drawn, sampled_spaces


def tensors_in(network: Network, spaces: tuple[str, ...]) -> set[str]:
    return {tensor for tensor, space in network.space_of.items() if space in spaces}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (residual_network, {"a0.y", "a1.y", "a2.y"}),
        (normalised_network, {"a.y", "c1.y"}),
        (branching_network, {"narrow.a.y", "wide.a.y", "reduced.a.y"}),
        (convolutional_network, {"excite.a.y"}),
    ],
)
def test_hidden_neurons_that_nothing_moves(make, expected):
    """Not inputs, outputs, or what is concatenated."""
    network = make()
    found = tensors_in(network, sampled_spaces(network, network))
    ends = {*network.input_tensors, *network.output_tensors}
    selected = {each for op in network.operations if type(op).__name__ == "Select" for each in op.sources}
    assert not found & (ends | selected) and expected <= found


def test_heads_are_not_taken_apart():
    network = transformer()
    found = tensors_in(network, sampled_spaces(network, network))
    heads = {each for op in network.operations if type(op).__name__ == "Attention" for each in op.sources}
    assert found and not found & heads


def test_relays_are_left_out():
    """They are in spaces that the original does not have."""
    network = small_plans.random_network(0, (12, 17, 15, 14, 5))
    x = np.random.default_rng(0).standard_normal((200, network.inputs))
    cut = restructure(network, Samples.of(x), Options(3, 0.3, "partitioned"))
    assert cut.plan.relays and len(cut.network.spaces) > len(network.spaces)
    assert sampled_spaces(cut.network, network) == sampled_spaces(network, network)


def test_nothing_to_sample():
    network = small_plans.random_network(0, (7, 5))
    with pytest.raises(UserError, match="leave --rotate out"):
        sampled_spaces(network, network)


@given(st.integers(1, 6), st.integers(0, 99), st.booleans())
def test_samples_are_of_what_others_compute(workers, seed, leaves_out):
    network = small_plans.random_network()
    plan = small_plans.random_plan(network, workers, "partitioned", seed)
    spaces = sampled_spaces(network, network)
    removed = {spaces[0]: np.random.default_rng(seed).random(network.space("x1").neurons) < 0.5}
    if leaves_out:
        plan = replace(plan, removed=removed)
    samples = drawn(plan, network, spaces, (seed, 1))
    small_plans.assert_same(drawn(plan, network, spaces, (seed, 1)), samples)
    for name, sample in samples.items():
        there = np.ones(sample.size, bool)
        if leaves_out and name == spaces[0]:
            there = ~removed[name]
        numbers = [sample.numbers(worker) for worker in range(workers)]
        np.testing.assert_array_equal(
            np.concatenate(numbers), np.arange(sample.size, sample.rows.neurons.size)
        )
        for worker, part in enumerate(sample.of_workers):
            owned = (plan.owners[name] == worker) & there
            others = np.flatnonzero(~owned & there)
            assert part.size == min(math.ceil(SHARE * owned.sum()), others.size)
            assert np.isin(part, others).all() and (np.diff(part) > 0).all()
            np.testing.assert_array_equal(sample.rows.neurons[numbers[worker]], part)


def test_samples_differ():
    network = small_plans.random_network()
    plan = small_plans.random_plan(network, 4, "partitioned")
    spaces = sampled_spaces(network, network)
    found = {
        drawn(plan, network, spaces, (0, epoch, number))[spaces[0]].rows.neurons.tobytes()
        for epoch in range(3)
        for number in range(3)
    }
    assert len(found) == 9
