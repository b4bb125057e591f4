"""Stages: which workers share which layers, and what is restructured inside them."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.interruption import assert_same_bits
from helpers.small_graphs import residual_network
from helpers.small_plans import random_network
from repurpose_hpc.fields import FieldError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.plan.plan import PLACEMENTS
from repurpose_hpc.plan.stages import stages_of
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.job import restructure_network
from repurpose_hpc.restructure.options import ASSIGNMENTS, Options
from repurpose_hpc.restructure.owners.stages import stage_workers
from repurpose_hpc.restructure.team import Team

WIDTHS = (12, 20, 17, 16, 15, 5)


def samples_of(network, count=300):
    return Samples.of(np.random.default_rng(1).standard_normal((count, network.inputs)))


def sizes_of(network, shared):
    """Multiply-adds of every layer, and the workers that share it."""
    names = [network.space_of[mixing.target] for mixing in network.mixings]
    return [mixing.weights.size for mixing in network.mixings], [tuple(shared[name]) for name in names]


@given(
    widths=st.lists(st.integers(1, 9), min_size=3, max_size=8),
    workers=st.integers(2, 7),
    data=st.data(),
)
def test_the_slowest_group_computes_as_little_as_can_be(widths, workers, data):
    """Beside all ways to cut the layers, with everything sent, so that groups share all they compute."""
    network = random_network(0, tuple(widths))
    layers = len(network.mixings)
    stages = data.draw(st.integers(2, min(layers, workers)))
    speeds = np.array(data.draw(st.lists(st.integers(1, 4), min_size=workers, max_size=workers)), float)
    sizes, shared = sizes_of(network, stage_workers(network, speeds, stages, 1.0, True))
    groups = list(dict.fromkeys(shared))
    assert len(groups) == stages
    assert np.sum(groups, axis=0).tolist() == [1] * workers
    assert [worker for group in groups for worker in np.flatnonzero(group)] == list(range(workers))
    counts = [sum(group) for group in groups]
    assert max(counts) - min(counts) <= 1

    def slowest(ends):
        times = zip(pairwise([0, *ends, layers]), groups, strict=True)
        return max(sum(sizes[slice(*part)]) / speeds[np.array(group)].sum() for part, group in times)

    best = min(map(slowest, combinations(range(1, layers), stages - 1)))
    found = [shared.index(group) for group in groups[1:]]
    assert slowest(found) == pytest.approx(best)


def test_what_a_residual_connection_ties_is_not_parted():
    network = residual_network()
    shared = stage_workers(network, np.ones(4), 2, 0.1, True)
    for mixing in network.mixings:
        groups = {tuple(shared[name]) for name in network.parts(mixing.target)}
        assert len(groups) == 1
    with pytest.raises(FieldError, match=r"^stages: expected at most \d+, into which the layers can be div"):
        stage_workers(network, np.ones(9), 9, 0.1, True)


def test_a_group_without_speed_is_named():
    with pytest.raises(FieldError, match="found none in stage 1, whose part weights are all 0"):
        stage_workers(random_network(), np.array([1, 1, 0, 0.0]), 2, 0.1, True)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"stages": 5}, "stages: expected at most workers=4"),
        ({"stages": "auto"}, "stages: expected a number, got 'auto'"),
        ({"stages": 2, "by_position": 1}, "stages and by_position"),
        ({"stages": 2, "assignment": "hypergraph", "comm_budget": 1.0}, "stages and assignment"),
    ],
)
def test_options_that_contradict_each_other(wrong, expected):
    with pytest.raises(FieldError, match=f"^{expected}"):
        Options(workers=4, **wrong)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_groups_own_what_they_make(placement, assignment):
    """Owners are in their group, nothing crosses backwards, the budget is kept; S does not divide P."""
    network = random_network(0, WIDTHS)
    options = Options(5, 0.3, placement, assignment, stages=2)
    cut = restructure(network, samples_of(network), options)
    shared = stage_workers(network, np.ones(5), 2, 0.3, placement == "replicated")
    for name, workers in shared.items():
        assert set(cut.plan.owners[name]) <= set(np.flatnonzero(workers))
    assert [stage.workers for stage in stages_of(cut.network, cut.plan)] == [(0, 1, 2), (3, 4)]
    for mixing in cut.network.mixings:
        if not mixing.name.startswith("layer0"):  # all workers may have a part of the input
            sent = cut.plan.traffic(cut.network, mixing)
            assert not sent[3:, :3].any()
    dense = sum(cut.plan.dense_values(network, mixing) for mixing in network.mixings)
    assert cut.traffic_matrix().sum() <= 0.3 * dense


NETWORKS = {"chain": random_network(0, WIDTHS), "residual": residual_network()}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("assignment", ["munkres", "random"])
def test_nothing_is_lost_with_a_budget_for_everything(name, assignment):
    """The second group is a worker alone, who is sent whatever the first layer there reads."""
    network = NETWORKS[name]
    cut = restructure(network, samples_of(network), Options(3, 1.0, assignment=assignment, stages=2))
    x = np.random.default_rng(2).standard_normal((7, network.inputs))
    np.testing.assert_array_equal(forward(cut.network, x), forward(network, x))
    first, second = stages_of(cut.network, cut.plan)
    assert (first.workers, second.workers) == ((0, 1), (2,))
    for mixing in network.mixings:
        _, target = cut.plan.ends(network, mixing)
        traffic = cut.plan.traffic(network, mixing)
        if mixing.name in second.mixings:
            assert traffic.sum() in (0, network.size(mixing.source))
            assert (target == 2).all()
        assert not traffic[2].any()


def test_stages_of_one_worker_exchange_between_them_alone():
    network = random_network(0, WIDTHS)
    cut = restructure(network, samples_of(network), Options(3, 0.5, stages=3))
    traffic = cut.traffic_matrix()
    assert np.count_nonzero(traffic) == traffic[0, 1:2].size + traffic[1, 2:].size
    assert (np.diagonal(traffic, 1) > 0).all()


def test_no_direction_of_a_narrow_layer_behind_a_cut_is_lost():
    """The last layer alone in its stage: as many relays as outputs are little beside the budget."""
    rng = np.random.default_rng(0)
    network = random_network(3, (12, 32, 32, 6))
    x = rng.standard_normal((400, 12)) * np.linspace(0.05, 3, 12)
    result = restructure_network(network, Samples.of(x), workers=3, stages=3, comm_budget=0.4)
    assert result.report["output_error"] < 0.01
    assert result.report["layers"][-1]["values_sent"] == 6


def test_the_team_changes_no_bit():
    network = random_network(0, WIDTHS)
    options, samples = Options(4, 0.2, stages=2), samples_of(network)
    assert_same_bits(
        restructure(network, samples, options, team=Team(threads=2)), restructure(network, samples, options)
    )


def test_limits_hold_inside_groups():
    """Memory and density are shared out among those that compute a layer."""
    network = random_network(0, (64, 64, 64, 64, 8))
    limits = (0.03, 0.03, 0.03, 0.03)  # MiB: a half of the weights, in float32, fits into two workers
    cut = restructure(network, samples_of(network), Options(4, 0.2, stages=2, memory_limits=limits))
    assert (cut.plan.weights_held(cut.network) * 4 <= 0.03 * 2**20).all()
    thin = restructure(network, samples_of(network), Options(4, 0.2, stages=2, density=0.3))
    assert thin.network.weight_count <= 0.3 * network.weight_count
    assert (thin.plan.weights_held(thin.network) > 0).all()


def test_one_stage_is_what_there_was():
    network = random_network(0, WIDTHS)
    cut = restructure(network, samples_of(network), Options(3, 0.3))
    (stage,) = stages_of(cut.network, cut.plan)
    assert stage.workers == (0, 1, 2)
    assert {mixing.name for mixing in network.mixings} <= set(stage.mixings)
