"""Models with ends, from the command line."""

import csv
import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from helpers import ROOT  # noqa: E402
from helpers.end_models import MODELS, expected, packed  # noqa: E402
from helpers.injection import KILL, after_batches, marking_at_once, variables  # noqa: E402
from repurpose_hpc.report.schema import InferReport, InspectReport, RestructureReport, problems  # noqa: E402

SAMPLES = 40


@pytest.fixture
def prepared(tmp_path):
    """A function that writes a model, calibration data and an input, and restructures the model.

    It returns the model, the shards and the report.
    """

    def prepare(name, *options):
        model = MODELS[name]
        path = model.save(tmp_path / "model.onnx")
        np.save(tmp_path / "calibration.npy", model.draw(150))
        np.save(tmp_path / "x.npy", model.draw(SAMPLES, seed=2))
        report, shards = tmp_path / "restructure.json", tmp_path / "shards"
        done = command(
            *("restructure", path, "--calibration", tmp_path / "calibration.npy", "--out", shards),
            *("--report", report, *options),
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(report.read_text())
        assert problems(found, RestructureReport) == []
        return path, shards, found

    return prepare


def command(*words):
    words = (sys.executable, "-m", "repurpose_hpc", *map(str, words))
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["tokens", "map_softmax", "classifier"])
def test_infer_on_ranks(name, prepared, mpirun, tmp_path):
    """More workers than outputs; the file has what onnxruntime computes, integers exactly."""
    path, shards, restructured = prepared(name, "--workers", 8, "--comm-budget", 1)
    want = expected(path, MODELS[name], np.load(tmp_path / "x.npy"))
    for ranks in (1, 2, 3, 4, 8):
        out, report = tmp_path / "y.h5", tmp_path / "report.json"
        done = mpirun(
            *(ranks, "-m", "repurpose_hpc.infer", path, "--shards", shards, "--input", tmp_path / "x.npy"),
            *("--output", out, "--verify", "--batch-size", 16, "--repeat", 2, "--report", report),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(report.read_text())
        assert problems(found, InferReport) == []
        assert found["relative_difference"] <= 1e-5
        with h5py.File(out) as file:
            y = file["y"][()]
        assert y.dtype == (np.float64 if name == "classifier" else np.float32)
        np.testing.assert_allclose(y, packed(want), rtol=0, atol=2e-6)
        if name == "classifier":
            np.testing.assert_array_equal(y[:, 0], want[0])
    assert found["values_sent"] == restructured["values_sent"]


def test_class_numbers_stay_integers(prepared, mpirun, tmp_path):
    path, shards, _ = prepared("segmentation", "--workers", 2, "--comm-budget", 1)
    out = tmp_path / "y.h5"
    done = mpirun(
        2, "-m", "repurpose_hpc.infer", "--shards", shards, "--input", tmp_path / "x.npy", "--output", out
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with h5py.File(out) as file:
        assert file["y"].dtype == np.int64
        want = expected(path, MODELS["segmentation"], np.load(tmp_path / "x.npy"))
        np.testing.assert_array_equal(file["y"][()], packed(want))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--verify", "--resume"), "--resume: expected a run without verify"),
        (("--certify",), "--certify: expected a model whose outputs are those of the network, found ArgMax"),
    ],
)
def test_what_a_back_does_not_go_with(options, message, prepared, mpirun, tmp_path):
    path, shards, _ = prepared("argmax", "--workers", 2, "--comm-budget", 1)
    words = (path, "--shards", shards, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.h5")
    done = mpirun(2, "-m", "repurpose_hpc.infer", *words, *options)
    assert done.returncode != 0
    assert message in done.stderr and "Traceback" not in done.stderr


def test_an_index_out_of_range_ends_the_run(prepared, mpirun, tmp_path):
    _, shards, _ = prepared("tokens", "--workers", 2, "--comm-budget", 1)
    x = np.load(tmp_path / "x.npy")
    x[-1, 1] = 50
    np.save(tmp_path / "x.npy", x)
    words = ("--shards", shards, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.h5")
    done = mpirun(2, "-m", "repurpose_hpc.infer", *words, "--batch-size", 16)
    assert done.returncode != 0 and not (tmp_path / "y.h5").exists()
    assert "sample 39: " in done.stderr and "Traceback" not in done.stderr
    assert "expected indices from -50 to 49, found 50" in done.stderr


def test_an_interrupted_run_goes_on(prepared, mpirun, tmp_path):
    """What was written is taken over, though it is not what the network computes."""
    path, shards, _ = prepared("argmax", "--workers", 2, "--comm-budget", 1)
    out, report = tmp_path / "y.h5", tmp_path / "report.json"
    files = ("--shards", shards, "--input", tmp_path / "x.npy", "--output", out)
    words = ("-m", "repurpose_hpc.infer", *files, "--batch-size", 8, "--resume")
    killed = variables([marking_at_once(), after_batches(3, KILL)], tmp_path)
    assert mpirun(2, *words, env=killed).returncode != 0
    done = mpirun(2, *words, "--report", report)
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())["resumed_samples"] == 16
    with h5py.File(out) as file:
        want = expected(path, MODELS["argmax"], np.load(tmp_path / "x.npy"))
        np.testing.assert_array_equal(file["y"][()], packed(want))


def test_inspect_says_what_is_outside_the_network(tmp_path):
    path, report = MODELS["sorted_ends"].save(tmp_path / "model.onnx"), tmp_path / "report.json"
    done = command("inspect", path, "--report", report)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    assert problems(found, InspectReport) == []
    assert found["front"] == {"operators": ["TopK"], "inputs": 6, "outputs": 4, "onnxruntime": True}
    assert found["back"]["operators"] == ["TopK", "Cast", "Concat"]
    assert "front, computed before the network, of every sample by onnxruntime: TopK" in done.stdout


def test_only_the_root_reads_and_feeds(prepared, mpirun, tmp_path):
    path, shards, _ = prepared("tokens", "--workers", 3, "--comm-budget", 1, "--input-placement", "root")
    words = ("--shards", shards, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.h5", "--verify")
    done = mpirun(3, "-m", "repurpose_hpc.infer", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    with h5py.File(tmp_path / "y.h5") as file:
        want = expected(path, MODELS["tokens"], np.load(tmp_path / "x.npy"))
        np.testing.assert_allclose(file["y"][()], packed(want), rtol=0, atol=2e-6)


def test_a_study(tmp_path):
    """Accuracies are those of the classes that the model tells."""
    model = MODELS["classifier"]
    path = model.save(tmp_path / "model.onnx")
    x = model.draw(150)
    np.savez(tmp_path / "x.npz", x=x, y=expected(path, model, x)[0])
    files = ("--calibration", tmp_path / "x.npz", "--test", tmp_path / "x.npz", "--out", tmp_path / "study")
    done = command("study", path, *files, "--workers", "3", "--methods", "data", "--budgets", "1,0.05")
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "study" / "study.csv", newline="") as file:
        accuracies = [float(row["test_accuracy"]) for row in csv.DictReader(file)]
    assert accuracies[0] == 1 > accuracies[1]


def test_forecasts_are_of_the_network(prepared, tmp_path):
    path, shards, _ = prepared("tokens", "--workers", 2)
    for subject in (path, shards):
        done = command("forecast", subject, "--machine", "hdr", "--ranks", "1,2")
        assert done.returncode == 0, done.stderr


def test_scaling_is_of_the_network(prepared, tmp_path):
    path, _, _ = prepared("tokens", "--workers", 2)
    files = ("--calibration", tmp_path / "calibration.npy", "--out", tmp_path / "scaling")
    options = ("--ranks", "1,2", "--batches", "4", "--seconds", "0.05", "--repeat", "2")
    done = command("scaling", "strong", path, *files, *options)
    assert done.returncode == 0, done.stderr + done.stdout
