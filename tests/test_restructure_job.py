"""Restructuring as a whole: what it promises about budget, owners, weights and files."""

import itertools

import numpy as np
import pytest

from repurpose_hpc.data import open_samples
from repurpose_hpc.model.activations import IDENTITY, RELU
from repurpose_hpc.model.network import chain
from repurpose_hpc.plan.assemble import assemble
from repurpose_hpc.plan.plan import EVERYBODY, PLACEMENTS, capacities
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.restructure.evaluation import evaluate
from repurpose_hpc.restructure.job import restructure_to
from repurpose_hpc.restructure.options import ASSIGNMENTS, METHODS, Options
from repurpose_hpc.restructure.restructure import restructure

WIDTHS = (12, 20, 17, 5)


def quiet(line):
    """Swallow the log."""


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(1)
    weights = [rng.standard_normal((m, n)) / np.sqrt(n) for n, m in itertools.pairwise(WIDTHS)]
    return chain(weights, [rng.standard_normal(m) for m in WIDTHS[1:]], [RELU, RELU, IDENTITY])


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((400, 12)) @ rng.standard_normal((12, 12))
    x[:, 3] = 1.0  # a constant input
    x[:, 5] = x[:, 4]  # and one that stands twice
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, x)
    return open_samples(path)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("method", METHODS)
def test_budget_owners_and_masks_hold(network, samples, placement, assignment, method):
    part_weights = (1.0, 2.0, 0.0, 1.0)
    options = Options(4, 0.2, placement, assignment, method, part_weights)
    result = restructure(network, samples, options, quiet)
    plan = result.plan
    sent = sum(plan.values_sent(network, mixing) for mixing in network.mixings)
    dense = sum(plan.dense_values(network, mixing) for mixing in network.mixings)
    assert 0 < sent <= 0.2 * dense
    for mixing in result.network.mixings:
        assert np.isfinite(mixing.weights).all()
        assert not mixing.weights[~plan.allowed(network, mixing)].any()
        owner = plan.owners[network.space(mixing.target).name]
        limit = capacities(owner.size, np.array(part_weights))
        assert (np.bincount(owner, minlength=4) <= limit).all()
        assert limit[2] == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("part_weights", [(1,), (1, 0, 1), (1,) * 25])
def test_budget_one_reproduces_the_network(network, samples, method, placement, part_weights):
    workers = len(part_weights)
    options = Options(workers, 1.0, placement, method=method, part_weights=part_weights)
    result = restructure(network, samples, options, quiet)
    assert result.network.fingerprint() == network.fingerprint()
    for mixing in network.mixings:
        assert result.plan.allowed(network, mixing).all()
        assert result.plan.values_sent(network, mixing) <= result.plan.dense_values(network, mixing)
    shards = [make_shard(result.network, result.plan, worker, np.float64) for worker in range(workers)]
    assert assemble(shards).fingerprint() == network.fingerprint()


def test_budget_one_keeps_what_the_samples_do_not_need(network, samples):
    # A neuron that is 0 for all of these samples, but not for others.
    biases = [mixing.bias.copy() for mixing in network.mixings]
    biases[0][3] = -1e3
    weights = [mixing.weights for mixing in network.mixings]
    network = chain(weights, biases, [RELU, RELU, IDENTITY])
    result = restructure(network, samples, Options(3, 1.0), quiet)
    assert result.network.fingerprint() == network.fingerprint()


def test_budget_zero_sends_nothing(network, samples):
    result = restructure(network, samples, Options(3, 0.0, "partitioned"), quiet)
    assert sum(result.plan.values_sent(network, mixing) for mixing in network.mixings) == 0


def test_replicated_input_is_owned_by_everybody(network, samples):
    result = restructure(network, samples, Options(3, 0.1), quiet)
    assert (result.plan.owners["input"] == EVERYBODY).all()
    assert result.plan.dense_values(network, network.mixings[0]) == 0


def test_full_method_is_better_than_the_baselines(network, samples):
    errors = {}
    for method in METHODS:
        result = restructure(network, samples, Options(4, 0.2, "partitioned", method=method), quiet)
        errors[method] = evaluate(network, result.network, samples)["output_error"]
    assert errors["data"] < errors["magnitude"]
    assert errors["frobenius"] < errors["magnitude"]


def test_same_command_same_bytes(network, samples, tmp_path):
    contents = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        options = Options(3, 0.1, assignment="random", seed=seed)
        restructure_to(tmp_path / name, network, samples, options, np.float32, quiet)
        contents.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_report_has_what_scripts_read(network, samples, tmp_path):
    report = restructure_to(tmp_path / "shards", network, samples, Options(3, 0.1), np.float32, quiet)
    assert report["values_sent"] == sum(layer["values_sent"] for layer in report["layers"])
    assert report["comm_fraction"] == report["values_sent"] / report["dense_values"] <= 0.1
    assert report["output_error"] == pytest.approx(report["layers"][-1]["relative_error"])
    assert report["weights_kept"] < report["weights"] == network.weight_count


def test_under_mpirun_the_same_shards(network, samples, tmp_path, mpirun):
    model = tmp_path / "model.npz"
    arrays = {f"W{i}": mixing.weights for i, mixing in enumerate(network.mixings)}
    np.savez(model, **arrays, **{f"b{i}": mixing.bias for i, mixing in enumerate(network.mixings)})
    contents = []
    for ranks in (1, 2):
        out = tmp_path / str(ranks)
        command = ("-m", "repurpose_hpc.restructure", model, "--workers", 3, "--out", out)
        done = mpirun(ranks, *command, "--calibration", samples.path, env={"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        contents.append([path.read_bytes() for path in sorted(out.iterdir())])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("ranks", [1, 2])
def test_mistakes_end_with_one_message(samples, tmp_path, mpirun, ranks):
    model = tmp_path / "model.npz"
    np.savez(model, W0=np.ones((3, 7)), b0=np.zeros(3))
    command = ("-m", "repurpose_hpc.restructure", model, "--workers", 2, "--calibration", samples.path)
    for arguments, status in ((("--out", tmp_path / "out"), 1), (("--comm-budget", 2, "--out", "x"), 2)):
        done = mpirun(ranks, *command, *arguments)
        assert done.returncode == status
        assert done.stderr.count("repurpose-hpc: error:") == 1
        assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.npz"]
