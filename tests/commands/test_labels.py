"""Commands and ``y``: used where it has a meaning, left alone with a line where it has none."""

import json

import numpy as np
import pytest

from helpers import small_plans
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.activations import IDENTITY, RELU, Activation
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.forward import forward
from repurpose_hpc.plan.assemble import assemble
from repurpose_hpc.plan.files.store import open_plan, read_shard
from repurpose_hpc.restructure.job import restructure_network

COUNT = 60


@pytest.fixture
def data():
    """Samples and a draw."""
    draw = np.random.default_rng(7)
    return draw.normal(size=(COUNT, small_plans.WIDTHS[0])), draw


def network(outputs: int, end: str):
    """A random network with an activation at its end, as a chain file holds it."""
    base = small_plans.random_network(head="identity", widths=(*small_plans.WIDTHS[:-1], outputs))
    weights, biases = zip(*((mixing.weights, mixing.bias) for mixing in base.mixings), strict=True)
    ends = {"sigmoid": Activation("sigmoid"), "identity": IDENTITY}
    return chain([*weights], [*biases], [RELU] * (len(weights) - 1) + [ends[end]])


def write(path, net, end):
    """The model file of a ``network``."""
    small_plans.write_model(path, net)
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, "activations": np.array(["relu"] * (len(net.mixings) - 1) + [end])})


def restructured(mpirun, folder, net, end, x, y, *words, status=0):
    """The report of ``restructure``, and what it printed."""
    write(folder / "model.npz", net, end)
    np.savez(folder / "data.npz", x=x, y=y)
    command = ("-m", "repurpose_hpc.restructure", folder / "model.npz", "--calibration", folder / "data.npz")
    files = ("--out", folder / "shards", "--report", folder / "report.json")
    done = mpirun(1, *command, "--workers", 2, *files, *words)
    assert done.returncode == status, done.stdout + done.stderr
    report = json.loads((folder / "report.json").read_text()) if status == 0 else {}
    return report, done.stdout + done.stderr


def whole(folder):
    """The network that the shards are of."""
    stored = open_plan(folder / "shards")
    return assemble([read_shard(stored, worker) for worker in range(2)])


@pytest.mark.parametrize(("outputs", "kind"), [(1, "classes"), (3, "multilabel")])
@pytest.mark.parametrize(("end", "level"), [("sigmoid", 0.5), ("identity", 0.0)])
def test_outputs_that_say_yes_or_no(mpirun, tmp_path, data, outputs, kind, end, level):
    x, draw = data
    net = network(outputs, end)
    y = (forward(net, x) > level) ^ (draw.random((COUNT, outputs)) < 0.1)
    y = y[:, 0].astype(float) if outputs == 1 else y.astype(int)
    report, printed = restructured(mpirun, tmp_path, net, end, x, y, "--comm-budget", 0.3)
    assert report["labels"] == kind and f"labels y {kind}: 0 or 1" in " ".join(printed.split())
    truth = y.reshape(COUNT, outputs)
    for key, found in (("reference_accuracy", net), ("accuracy", whole(tmp_path))):
        assert report[key] == pytest.approx(np.mean((forward(found, x) > level) == truth))
    assert report["reference_accuracy"] > 0.8


@pytest.mark.parametrize(
    ("y", "reason"),
    [
        (np.zeros((COUNT, 2, 7)), "14 values for each sample"),
        (np.zeros(COUNT - 1), "59 rows beside 60 samples"),
        (np.arange(COUNT) % 7 + 1, "labels from 1 to 7"),
        (np.array(["a"] * COUNT), "values of type <U1"),
    ],
)
def test_labels_that_mean_nothing_here_are_left_alone(mpirun, tmp_path, data, y, reason):
    x, _ = data
    report, printed = restructured(mpirun, tmp_path, network(5, "identity"), "identity", x, y)
    assert report["labels"] == "left alone" and reason in report["labels_note"] and "accuracy" not in report
    assert f"labels y left alone: {reason}" in " ".join(printed.split())
    command = ("-m", "repurpose_hpc.infer", "--shards", tmp_path / "shards", "--input", tmp_path / "data.npz")
    done = mpirun(2, *command, "--repeat", 0)
    assert done.returncode == 0, done.stderr
    assert f"left alone: {reason}" in done.stdout and "accuracy" not in done.stdout


def test_targets_have_an_error_of_both_networks(mpirun, tmp_path, data):
    x, draw = data
    net = network(2, "identity")
    y = forward(net, x) + 0.1 * draw.normal(size=(COUNT, 2))
    report, printed = restructured(mpirun, tmp_path, net, "identity", x, y, "--comm-budget", 0.3)
    assert report["labels"] == "targets" and "root mean square error restructured" in printed
    words = (tmp_path / "model.npz", "--shards", tmp_path / "shards", "--input", tmp_path / "data.npz")
    done = mpirun(2, "-m", "repurpose_hpc.infer", *words, "--repeat", 0, "--report", tmp_path / "run.json")
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "run.json").read_text())
    for prefix, found in (("reference_", net), ("", whole(tmp_path))):
        error = forward(found, x) - y
        for each in (report, run):
            assert each[f"{prefix}rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-4)
            r2 = 1 - np.sum(error**2) / np.sum((y - y.mean(axis=0)) ** 2)
            assert each[f"{prefix}r2"] == pytest.approx(r2, rel=1e-4)
    assert f"{run['rmse']:.4f}" in done.stdout and "R²" in done.stdout


def test_an_accuracy_of_targets_cannot_be_promised(mpirun, tmp_path, data):
    x, draw = data
    y = draw.normal(size=COUNT)
    words = ("--max-accuracy-drop", 20)
    _, printed = restructured(mpirun, tmp_path, network(1, "identity"), "identity", x, y, *words, status=1)
    assert "--max-accuracy-drop: expected labels y of classes" in printed and "found targets: " in printed
    assert "--max-output-error" in printed


def test_weights_of_outputs_that_do_not_fit(mpirun, tmp_path, data):
    x, _ = data
    words = ("--output-weights", "1,2")
    net = network(5, "identity")
    _, printed = restructured(mpirun, tmp_path, net, "identity", x, np.zeros(COUNT), *words, status=1)
    assert "--output-weights: expected one number for each output (1) or" in printed


@pytest.mark.parametrize(
    ("labels", "warning"),
    [
        ("right", None),
        ("same", "all labels are the same"),
        ("wrong", "it does not predict these labels"),
    ],
)
def test_promises_that_say_little_warn(labels, warning):
    x = np.random.default_rng(8).normal(size=(400, small_plans.WIDTHS[0]))
    net = network(5, "identity")
    right = forward(net, x).argmax(axis=1)
    y = {"right": right, "same": right * 0, "wrong": (right + 1) % 5}[labels]
    lines: list[str] = []
    cut = restructure_network(net, Samples.of(x, y), workers=2, max_accuracy_drop=10.0, log=lines.append)
    warnings = [line for line in lines if line.startswith("warning: on the held-out samples")]
    assert cut.report.get("warnings", []) == [line.removeprefix("warning: ") for line in warnings]
    assert len(warnings) == (warning is not None) and all(warning in line for line in warnings)


def test_a_promise_for_several_labels():
    x = np.random.default_rng(9).normal(size=(400, small_plans.WIDTHS[0]))
    net = network(3, "sigmoid")
    y = forward(net, x) > 0.5
    cut = restructure_network(net, Samples.of(x, y), workers=3, max_accuracy_drop=8.0)
    assert cut.report["labels"] == "multilabel" and cut.report["accuracy_drop"] <= 8
    drop = 100 * (cut.report["reference_accuracy_held_out"] - cut.report["accuracy_held_out"])
    assert cut.report["accuracy_drop"] == pytest.approx(drop)
    # A sample of which any label is lost may have lost all of them.
    assert cut.report["accuracy_drop_bound"] > cut.report["accuracy_drop"]


def test_a_promise_needs_labels_that_have_a_meaning():
    x = np.zeros((400, small_plans.WIDTHS[0]))
    with pytest.raises(UserError, match="found left alone: labels from 7 to 7"):
        restructure_network(
            network(5, "identity"), Samples.of(x, [7] * 400), workers=2, max_accuracy_drop=9.0
        )
