"""``restructure --lossless``: what is left is cut, and everything that knows the original still does."""

import json

import numpy as np
import pytest

from helpers import small_plans
from helpers.superfluous import planted
from repurpose_hpc.commands.restructure import parse
from repurpose_hpc.errors import UsageError
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.plan.files.store import open_plan, read_network, shard_path

WORKERS, WIDTHS = 3, (12, 30, 24, 5)


def original():
    """A network with superfluous neurons, and two equal outputs."""
    network = planted(small_plans.random_network(widths=WIDTHS), 3)
    last = network.mixings[-1]
    last.weights[3], last.bias[3] = last.weights[1], last.bias[1]
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("lossless")
    network = original()
    small_plans.write_model(path / "model.npz", network)
    x = small_plans.write_samples(path / "x.npz", samples=600, width=WIDTHS[0])
    np.savez(path / "x.npz", x=x, y=forward(network, x).argmax(axis=1))
    return path


@pytest.fixture(scope="module")
def restructure(folder):
    """A function that runs the command with ``--lossless``: its report."""
    from conftest import _mpirun

    def run(*args: object, out: str, ranks: int = 1) -> dict:
        files = folder / "model.npz", "--calibration", folder / "x.npz", "--out", folder / out
        words = *files, "--workers", WORKERS, "--lossless", "--report", folder / f"{out}.json", *args
        done = _mpirun(ranks, "-m", "repurpose_hpc", "restructure", *words)
        assert done.returncode == 0, done.stderr
        return json.loads((folder / f"{out}.json").read_text())

    return run


@pytest.fixture(scope="module")
def shards(restructure):
    """Made by one rank and by three, with a budget."""
    return [restructure("--comm-budget", 0.3, out=f"of{ranks}", ranks=ranks) for ranks in (1, 3)]


def test_the_same_bits_for_any_ranks(folder, shards):
    first, second = ((folder / f"of{ranks}" / "plan.h5").read_bytes() for ranks in (1, 3))
    assert first == second
    for q in range(WORKERS):
        first, second = (shard_path(folder / f"of{ranks}", q).read_bytes() for ranks in (1, 3))
        assert first == second


def test_the_report_says_what_is_left_of_the_original(folder, shards):
    report, network = shards[0], original()
    found = report["lossless"]
    assert found["original_edges"] == network.weight_count == report["weights"] > found["edges"]
    assert found["original_neurons"] == sum(WIDTHS[1:]) > found["neurons"]
    assert found["original_dense_values"] == (WORKERS - 1) * sum(WIDTHS[1:-1])
    assert found["dense_values"] == report["dense_values"] < found["original_dense_values"]
    assert found["difference"] < 1e-12
    assert report["values_sent"] <= 0.3 * report["dense_values"]
    stored = open_plan(folder / "of1")
    assert stored.provenance["lossless"]["edges"] == found["edges"]
    assert stored.provenance["options"]["lossless"] is True
    assert stored.provenance["model_fingerprint"] == load_model(folder / "model.npz").fingerprint()


def test_a_run_of_the_shards_knows_the_original(folder, shards, mpirun):
    """Its fingerprint, its accuracy, and for a certificate its mixings."""
    words = "--shards", folder / "of3", "--input", folder / "x.npz", "--verify", "--certify", "--repeat", 0
    done = mpirun(
        2, "-m", "repurpose_hpc.infer", folder / "model.npz", *words, "--report", folder / "run.json"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "run.json").read_text())
    assert report["reference_accuracy"] > 0.99 and 0 <= report["certified"] <= report["accuracy"]


def test_nothing_is_lost_where_everything_may_travel(folder, restructure):
    report = restructure("--comm-budget", 1, "--dtype", "float64", out="whole")
    x = np.load(folder / "x.npz")["x"]
    found, expected = forward(read_network(open_plan(folder / "whole")), x), forward(original(), x)
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # the file has float32
    assert report["output_error"] < 1e-6 and report["weights_kept"] == report["lossless"]["edges"]


def test_a_promise_is_kept(restructure):
    report = restructure("--max-accuracy-drop", 5, "--input-placement", "partitioned", out="promised")
    assert report["accuracy_drop"] <= 5 and report["lossless"]["neurons"] < sum(WIDTHS[1:])


def test_a_transformer_with_texts_has_none(tmp_path):
    from helpers.model_directories import llama

    words = [llama(tmp_path / "model"), "--out", tmp_path / "out", "--workers", 2, "--lossless"]
    for others in ([], ["--calibration", "texts.npz"]):
        with pytest.raises(UsageError, match=r"--lossless has no effect on a transformer"):
            parse([str(word) for word in [*words, *others]])


def test_local_losses_compare_the_neurons_that_are_left(folder, restructure, mpirun):
    """With all that crosses nothing was lost, and steps that are this small leave it so."""
    restructure("--comm-budget", 1, out="whole")
    files = "--shards", folder / "whole", "--data", folder / "x.npz", "--distill", folder / "model.npz"
    words = *files, "--local", "--epochs", 1, "--learning-rate", 1e-3, "--out", folder / "tuned"
    done = mpirun(2, "-m", "repurpose_hpc", "finetune", *words, "--report", folder / "tuned.json")
    assert done.returncode == 0, done.stderr
    before, after = json.loads((folder / "tuned.json").read_text())["epochs"]
    assert before["held_out_loss"] < 1e-9 and after["held_out_loss"] < 1e-6
