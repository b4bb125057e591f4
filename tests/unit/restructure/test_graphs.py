"""Restructuring networks with maps, branches and tied spaces: what it promises, and the runs of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.small_graphs import (
    TANH,
    Draw,
    convolutional_network,
    normalised_network,
    residual_network,
    spiking_network,
    square_window,
)
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import whole_map
from repurpose_hpc.plan.assemble import assemble
from repurpose_hpc.plan.plan import PLACEMENTS
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.restructure.calibration.evaluation import compare
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.job import restructure_to
from repurpose_hpc.restructure.options import ASSIGNMENTS, METHODS, Options
from repurpose_hpc.restructure.support.reserve import BudgetTooSmall
from repurpose_hpc.restructure.team import Team

WORKERS = 3


def quiet(line: str) -> None:
    """Swallow the log."""


def grouped_network(seed: int = 0, groups: int = 2) -> Network:
    """A grouped convolution between two others."""
    draw, size = Draw(seed), (5, 4)
    builder, m = draw.builder, 8
    tensor = builder.elementwise(
        "a0", draw.mixing("c0", builder.input("input", 2, size), m, square_window(size)), TANH
    )
    weights, bias = draw.weights(m, m * 9)
    inside = np.kron(np.eye(groups), np.ones((m // groups, m // groups * 9)))
    tensor = builder.mixing("grouped", tensor, weights * inside, bias, square_window(size))
    tensor = builder.elementwise("a1", tensor, TANH)
    return builder.build((draw.mixing("last", tensor, 3, whole_map(size)),), ("identity",))


def normalised_input_network(seed: int = 0) -> Network:
    """A residual layer around the input less its mean: the layer reads the space that it makes."""
    draw = Draw(seed)
    builder = draw.builder
    x = builder.input("input", 6)
    mean = builder.mixing("mean", x, np.full((1, 6), 1 / 6), np.zeros(1), None, True)
    spread = builder.mixing("spread", mean, np.ones((6, 1)), np.zeros(6), None, True)
    centred = builder.combine("centred", x, spread, "subtract")
    tensor = builder.combine("sum", centred, draw.mixing("inner", centred, 6), "add")
    return builder.build((draw.mixing("last", builder.elementwise("a", tensor, TANH), 3),), ("identity",))


NETWORKS = {
    "residual": residual_network,
    "branches": convolutional_network,
    "normalised": normalised_network,
    "grouped": grouped_network,
    "spiking": spiking_network,
}


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]()


@pytest.fixture
def samples_of(tmp_path):
    def make(network: Network, count: int = 150) -> Path:
        path, rng = tmp_path / "x.npy", np.random.default_rng(3)
        mix = rng.standard_normal((network.inputs, network.inputs)) / np.sqrt(network.inputs)
        np.save(path, rng.standard_normal((count, network.inputs)) @ mix)
        return path

    return make


def sent(network, plan):
    return sum(plan.values_sent(network, mixing) for mixing in network.mixings)


def dense(network, plan):
    return sum(plan.dense_values(network, mixing) for mixing in network.mixings)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("method", METHODS)
def test_budget_and_masks_hold(network, samples_of, method, placement):
    samples = open_samples(samples_of(network))
    result = restructure(network, samples, Options(WORKERS, 0.3, placement, method=method), quiet)
    plan = result.plan
    assert result.traffic_matrix().sum() <= 0.3 * dense(network, plan)
    for mixing in result.network.mixings:
        assert not mixing.links[~plan.allowed(result.network, mixing)].any()
        assert np.isfinite(mixing.weights).all()
    shards = [make_shard(result.network, plan, worker, np.float64) for worker in range(WORKERS)]
    assert assemble(shards).fingerprint() == result.network.fingerprint()


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_tied_tensors_have_one_owner_and_derived_ones_theirs(network, samples_of, assignment):
    options = Options(WORKERS, 0.3, "partitioned", assignment=assignment)
    plan = restructure(network, open_samples(samples_of(network)), options, quiet).plan
    free = {space.name: plan.owners[space.name] for space in network.free_spaces}
    for name, owner in network.derive(free).items():
        np.testing.assert_array_equal(plan.owners[name], owner)
    for space in network.free_spaces:
        if space.name not in network.input_spaces:
            assert np.bincount(plan.owners[space.name]).max() <= -(-space.neurons // WORKERS)


def test_samples_with_the_channels_last_are_refused(tmp_path):
    network = residual_network()
    assert network.input_shape == (2, 6, 5)
    np.save(tmp_path / "x.npy", np.ones((9, 6, 5, 2)))
    with pytest.raises(UserError, match=r"expected samples of shape \(2, 6, 5\)"):
        restructure(network, open_samples(tmp_path / "x.npy"), Options(2), quiet)


def test_fixed_mixings_keep_their_weights(samples_of):
    network = normalised_network()
    result = restructure(network, open_samples(samples_of(network)), Options(WORKERS, 0.5), quiet)
    for before, after in zip(network.mixings, result.network.mixings, strict=True):
        if before.fixed:
            assert before is after
            assert result.plan.allowed(network, after)[after.links].all()


@pytest.mark.parametrize("method", ["data", "frobenius"])
@pytest.mark.parametrize("groups", [2, 4])
def test_groups_stay_apart_and_together_with_their_owner(samples_of, method, groups):
    network = grouped_network(groups=groups)
    samples = open_samples(samples_of(network))
    result = restructure(network, samples, Options(2, 0.3, "partitioned", method=method), quiet)
    before = network.mixings[1]
    after = next(mixing for mixing in result.network.mixings if mixing.name == before.name)
    assert not after.links[~before.links].any()
    # Two workers have room for whole groups, so that nothing needs to travel between them.
    assert result.plan.values_sent(result.network, after) == 0
    np.testing.assert_array_equal(after.links, before.links)


@pytest.mark.parametrize("options", [Options(WORKERS, 0.05), Options(WORKERS, 0.0)])
def test_a_budget_that_fixed_mixings_exceed_is_refused(samples_of, options):
    network = normalised_network()
    with pytest.raises(BudgetTooSmall, match="expected 80 at least"):
        restructure(network, open_samples(samples_of(network)), options, quiet)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_a_layer_may_read_the_space_that_it_makes(samples_of, assignment, placement):
    network = normalised_input_network()
    samples = open_samples(samples_of(network))
    plan = restructure(network, samples, Options(WORKERS, 0.8, placement, assignment), quiet).plan
    assert sent(network, plan) <= 0.8 * dense(network, plan)


def test_copies_of_the_input_are_paid_for(samples_of):
    """An input that a trained mixing reads first, and whose copy others are added to."""
    draw = Draw(0)
    x = draw.builder.input("input", 6)
    tensor = draw.builder.combine("sum", draw.mixing("inner", x, 6), x, "add")
    network = draw.builder.build((draw.mixing("last", tensor, 3),), ("identity",))
    samples = open_samples(samples_of(network))
    for budget in (0.0, 0.2, 0.5):
        options = Options(WORKERS, budget, "partitioned", assignment="random")
        try:
            plan = restructure(network, samples, options, quiet).plan
        except BudgetTooSmall:
            assert budget < 0.5
        else:
            assert sent(network, plan) <= budget * dense(network, plan)


def test_a_promise_is_kept_above_what_fixed_mixings_send(samples_of, tmp_path):
    network = normalised_network()
    options = Options(WORKERS, max_output_error=10.0)  # any budget would do
    report = restructure_to(
        tmp_path / "out", network, open_samples(samples_of(network)), options, np.float64, quiet
    )
    assert 80 <= report["values_sent"] <= 1.2 * 80


def test_the_whole_budget_changes_nothing(network, samples_of):
    result = restructure(network, open_samples(samples_of(network)), Options(WORKERS, 1.0), quiet)
    assert result.network.fingerprint() == network.fingerprint()


def test_more_communication_and_the_full_method_lower_the_error(network, samples_of):
    samples = open_samples(samples_of(network, 400))

    def error(budget: float, method: str) -> float:
        options = Options(WORKERS, budget, "partitioned", method=method)
        restructured = restructure(network, samples, options, quiet).network
        return compare(network, restructured, samples).output_error

    # Of a grouped convolution little of the dense traffic is of any use.
    more, less = (0.1, 0.05) if any(not mixing.links.all() for mixing in network.mixings) else (0.6, 0.3)
    assert error(more, "data") < error(less, "data") < error(less, "magnitude")


def test_every_result_is_the_same_for_every_team(network, samples_of):
    samples, options = open_samples(samples_of(network)), Options(WORKERS, 0.3)
    one, three = (restructure(network, samples, options, quiet, Team(threads=size)) for size in (1, 3))
    assert one.network.fingerprint() == three.network.fingerprint()
    assert one.plan.identity() == three.plan.identity()


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_compute_what_the_reference_does(network, samples_of, tmp_path, mpirun, ranks):
    path, shards = samples_of(network), tmp_path / "shards"
    samples = open_samples(path)
    report = restructure_to(shards, network, samples, Options(WORKERS, 0.3), np.float64, quiet)
    result = mpirun(
        ranks, "-m", "repurpose_hpc.infer", "--shards", shards, "--input", path, "--verify",
        "--repeat", 1, "--dtype", "float64", "--report", tmp_path / "report.json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["max_abs_difference"] < 1e-11
    if ranks == WORKERS:
        assert found["values_sent"] == report["values_sent"]


def test_a_reloaded_network_computes_the_same(network, samples_of, tmp_path):
    x = np.load(samples_of(network))
    result = restructure(network, open_samples(tmp_path / "x.npy"), Options(WORKERS, 0.3), quiet)
    shards = [make_shard(result.network, result.plan, worker, np.float64) for worker in range(WORKERS)]
    np.testing.assert_array_equal(forward(assemble(shards), x), forward(result.network, x))
