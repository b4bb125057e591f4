"""Whole branches of a network for workers: finding them, packing them, and what is sent then."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.ensembles import block_chain, convolutional_branches, ensemble, members
from helpers.small_graphs import convolutional_network, normalised_network, residual_network
from repurpose_hpc import bundled
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.assemble import assemble
from repurpose_hpc.plan.plan import PLACEMENTS
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.restructure.calibration.evaluation import evaluate
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.owners.branches import NONE, Branches, find_branches
from repurpose_hpc.restructure.owners.packing import SLACK, pack

WIDTHS = (9, 8, 8, 3)
seeds = st.integers(0, 2**32 - 1)


def samples_for(network: Network, count: int = 300) -> Samples:
    """Independent inputs."""
    return Samples.of(np.random.default_rng(3).standard_normal((count, network.inputs)))


def sent(cut: Cut) -> int:
    return int(cut.traffic_matrix().sum())


def energies(network: Network) -> dict[str, np.ndarray]:
    """Those of inputs that are alike and independent."""
    trained = [mixing for mixing in network.mixings if not mixing.fixed]
    squares = {mixing.name: mixing.weights.astype(float) ** 2 for mixing in trained}
    return {m.name: squares[m.name].reshape(len(m.bias), -1, m.taps).sum(axis=2) for m in trained}


def branches_of(network: Network) -> Branches | None:
    return find_branches(network, energies(network))


loads_and_speeds = st.tuples(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=12), st.lists(st.floats(0, 1), min_size=1, max_size=9)
).filter(lambda both: sum(both[1]) > 0.1)


@given(loads_and_speeds, st.floats(0, 0.5))
def test_packing_respects_capacities(both, slack):
    loads, speeds = (np.array(values) / sum(values) for values in both)
    packing = pack(loads, speeds, slack)
    np.testing.assert_allclose(packing.sum(axis=1), 1)
    assert (packing >= 0).all()
    assert (loads @ packing <= (1 + slack) * speeds + 1e-7).all()
    assert (packing == pack(loads, speeds, slack)).all()


@given(st.integers(1, 6), st.integers(1, 6))
def test_equal_branches_stay_whole_where_that_is_fair(workers, each):
    packing = pack(np.full(workers * each, 1 / (workers * each)), np.full(workers, 1 / workers), 0.0)
    assert (np.count_nonzero(packing, axis=1) == 1).all()
    assert (packing.sum(axis=0) == each).all()


@given(loads_and_speeds)
def test_packing_divides_fewer_branches_than_there_are_workers(both):
    loads, speeds = (np.array(values) / sum(values) for values in both)
    pieces = np.count_nonzero(pack(loads, speeds, SLACK))
    assert pieces <= len(loads) + np.count_nonzero(speeds) - 1 + len(loads) // 2


@given(st.integers(2, 5), st.integers(2, 6), seeds)
@settings(max_examples=25)
def test_members_of_an_ensemble_are_its_branches(count, width, seed):
    parts = members(count, (4, width, width, 2), seed)
    for network in (ensemble(parts), ensemble(parts, "concat"), block_chain(parts, seed=seed)):
        branches = branches_of(network)
        assert branches is not None and len(branches.total) == count
        np.testing.assert_allclose(branches.total, 1 / count)


def test_only_readouts_of_several_branches_and_inputs_belong_to_none():
    for merge, shared in (("add", 3), ("concat", 0)):
        network = ensemble(members(4, WIDTHS), merge)
        branches = branches_of(network)
        numbers = {name: number for name, number in branches.number.items() if name != "input"}
        assert (branches.number["input"] == NONE).all()
        assert sum(np.count_nonzero(number == NONE) for number in numbers.values()) == shared


@pytest.mark.parametrize("weak", [0.01, 0.1])
def test_weak_links_do_not_hide_communities(weak):
    branches = branches_of(block_chain(members(4, (9, 24, 24, 3)), weak))
    assert branches is not None
    np.testing.assert_allclose(branches.total, 1 / 4, rtol=0.1)


@pytest.mark.parametrize(
    "network",
    [
        ensemble(members(1, WIDTHS)),
        block_chain(members(4, (9, 24, 24, 3)), 1.0),
        residual_network(),
        normalised_network(),
        convolutional_network(),
        load_model(bundled.MODEL),
    ],
)
def test_other_networks_have_no_branches(network):
    assert branches_of(network) is None


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("workers", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("make", [ensemble, block_chain])
def test_ensembles_run_as_planned(make, workers, placement):
    network = make(members(4, WIDTHS))
    samples = samples_for(network)
    cut = restructure(network, samples, Options(workers, 0.3, placement))
    dense = sum(cut.plan.dense_values(network, mixing) for mixing in network.mixings)
    assert sent(cut) <= 0.3 * dense
    shards = [make_shard(cut.network, cut.plan, worker, np.float64) for worker in range(workers)]
    x = np.random.default_rng(1).standard_normal((5, network.inputs))
    np.testing.assert_array_equal(forward(assemble(shards), x), forward(cut.network, x))


@pytest.mark.parametrize("merge", ["add", "concat"])
def test_whole_branches_lose_nothing(merge):
    network = ensemble(members(4, WIDTHS), merge)
    samples = samples_for(network)
    cut = restructure(network, samples, Options(4, 0.1))
    assert evaluate(network, cut.network, samples)["output_error"] < 1e-12
    assert sent(cut) == (0 if merge == "concat" else 3 * 3)
    for name, number in branches_of(network).number.items():
        for branch in range(4):
            assert np.unique(cut.plan.owners[name][number == branch]).size <= 1


def test_a_chain_of_blocks_is_cut_between_them():
    network = block_chain(members(4, WIDTHS))
    samples = samples_for(network)
    cut = restructure(network, samples, Options(4, 0.1))
    assert sent(cut) == 3 * 3
    assert evaluate(network, cut.network, samples)["output_error"] < 1e-12


def test_branches_of_convolutions_lose_nothing():
    network = convolutional_branches(3)
    x = np.random.default_rng(3).standard_normal((200, *network.input_shape))
    cut = restructure(network, Samples.of(x), Options(3, 0.01))
    assert sent(cut) == 0
    assert evaluate(network, cut.network, Samples.of(x))["output_error"] < 1e-12


def test_imbalance_lets_workers_have_more_whole_branches():
    network = ensemble(members(5, WIDTHS), "concat")
    samples = samples_for(network)
    fair, generous = (restructure(network, samples, Options(2, 0.2, imbalance=E)) for E in (0.0, 0.2))
    assert sent(generous) == 0 < sent(fair)
    held = [cut.plan.weights_held(cut.network) for cut in (fair, generous)]
    assert [max(each) / sum(each) for each in held] == pytest.approx([0.5, 0.6], abs=0.1)
    assert evaluate(network, generous.network, samples)["output_error"] < 1e-12


def test_the_fifth_of_five_branches_is_divided_alone():
    network = ensemble(members(5, WIDTHS), "concat")
    cut = restructure(network, samples_for(network), Options(4, 0.2))
    whole = [
        branch
        for branch in range(5)
        if all(
            np.unique(cut.plan.owners[name][number == branch]).size <= 1
            for name, number in branches_of(network).number.items()
        )
    ]
    assert len(whole) == 4


def test_density_leaves_every_branch_its_weights():
    network = ensemble(members(4, (9, 16, 16, 3)), "concat")
    cut = restructure(network, samples_for(network), Options(4, 0.2, density=0.5))
    held = cut.plan.weights_held(cut.network)
    assert held.sum() <= 0.5 * network.weight_count
    assert held.min() > 0.6 * held.max()
    for mixing in cut.network.mixings:
        assert mixing.weights.any()
