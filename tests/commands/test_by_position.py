"""``restructure --by-position``: shards that run, report and go on like any others."""

import contextlib
import csv
import json

import h5py
import numpy as np
import pytest

from helpers.onnx_models import node, save
from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import count
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.plan.files.origin import as_it_was_cut
from repurpose_hpc.plan.files.store import open_plan
from repurpose_hpc.restructure.job import restructure_network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network of three convolutions, the second strided, a mean and a dense layer; and samples."""
    path, rng = tmp_path_factory.mktemp("position"), np.random.default_rng(0)

    def weights(*shape):
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    nodes = [
        node("Conv", "x a", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "d"),
        node("Conv", "d b", "e", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", "e", "f"),
        node("Conv", "f g", "h", pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", "h", "i"),
        node("Flatten", "i", "j"),
        node("Gemm", "j k", "y", transB=1),
    ]
    constants = {"a": weights(8, 2, 3, 3), "b": weights(10, 8, 3, 3), "g": weights(12, 10, 3, 3)}
    save(path / "model.onnx", nodes, constants | {"k": weights(4, 12)}, ("N", 2, 9, 7))
    x = rng.standard_normal((120, 2, 9, 7)).astype(np.float32)
    np.save(path / "x.npy", x)
    return path


def run_restructure(mpirun, folder, *words, ranks=1):
    """The report of a restructuring for three workers."""
    files = folder / "model.onnx", "--calibration", folder / "x.npy", "--out", folder / "shards"
    report = folder / "report.json"
    command = "-m", "repurpose_hpc", "restructure", *files, "--workers", 3, "--report", report, *words
    done = mpirun(ranks, *command)
    assert done.returncode == 0, done.stderr
    return json.loads(report.read_text()), done


def test_all_layers_by_position_lose_nothing(mpirun, folder):
    """By two ranks: the same as by one; the outputs are those of the original, which does not fit a grid."""
    report, _ = run_restructure(mpirun, folder, "--comm-budget", 1, "--by-position", 3)
    first = (folder / "shards" / "plan.h5").read_bytes()
    run_restructure(mpirun, folder, "--comm-budget", 1, "--by-position", 3, ranks=2)
    assert (folder / "shards" / "plan.h5").read_bytes() == first
    assert [layer["form"] for layer in report["layers"]][:3] == ["position"] * 3
    assert report["output_error"] < 1e-6 and report["values_sent"] < 0.7 * report["dense_values"]
    words = "--shards", folder / "shards", "--input", folder / "x.npy", "--verify"
    done = mpirun(3, "-m", "repurpose_hpc.infer", *words, "--output", folder / "y.h5")
    assert done.returncode == 0, done.stderr
    with h5py.File(folder / "y.h5") as file:
        y = file["y"][()]
    expected = forward(load_model(folder / "model.onnx"), np.load(folder / "x.npy").reshape(120, -1))
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_the_number_of_layers_is_tried(mpirun, folder):
    """And what is taken is said; the plan knows the network that it was made from."""
    report, done = run_restructure(mpirun, folder, "--comm-budget", 0.6, "--by-position", "auto")
    assert report["comm_fraction"] <= 0.6
    assert "by position" in done.stderr
    stored = open_plan(folder / "shards")
    network = load_model(folder / "model.onnx")
    cut = as_it_was_cut(stored, network)
    assert {mixing.name for mixing in cut.mixings} == set(stored.plan.mixings) - set(
        stored.plan.relays.values()
    )
    if "by_position" in stored.provenance:
        assert 1 <= stored.provenance["by_position"]["layers"] <= 3
        assert any(layer["form"] == "position" for layer in report["layers"])


@pytest.mark.parametrize("error", [0.0001, 0.3, 10])
def test_a_promise_is_kept_with_the_least(mpirun, folder, error):
    """With the number of layers that sends least of all that are tried."""
    network, samples = load_model(folder / "model.onnx"), Samples.of(np.load(folder / "x.npy"))
    lines = []

    def cut(layers):
        options = {"workers": 3, "max_output_error": error, "by_position": layers}
        return restructure_network(network, samples, **options, log=lines.append)

    found = cut("auto")
    tried = {}
    for layers in range(4):
        with contextlib.suppress(UserError):
            tried[layers] = cut(layers).report["values_sent"]
    taken = found.provenance.get("by_position", {"layers": 0})["layers"]
    assert found.report["values_sent"] == tried[taken]
    assert f"by position: {count(taken, 'layer')}" in lines
    numbers = [
        0,
        *(n for n in tried if any(f"by position, {count(n, 'layer')}" in line for line in lines)),
        3,
    ]
    assert found.report["values_sent"] == min(tried[n] for n in numbers if n in tried)
    assert found.report["output_error_held_out"] <= error


def test_a_study_has_the_same_numbers(mpirun, folder):
    """As ``restructure`` prints; other numbers of layers are other points."""
    report, _ = run_restructure(mpirun, folder, "--comm-budget", 0.6, "--by-position", 2)
    files = folder / "model.onnx", "--calibration", folder / "x.npy", "--test", folder / "x.npy"
    options = "--workers", 3, "--methods", "data", "--budgets", 0.6, "--out", folder / "study"
    for layers in (2, 0):
        words = "study", *files, *options, "--by-position", layers
        done = mpirun(1, "-m", "repurpose_hpc", *words)
        assert done.returncode == 0, done.stderr
    with open(folder / "study" / "study.csv", newline="") as file:
        rows = {row["by_position"]: row for row in csv.DictReader(file)}
    assert {*rows} == {"2", "0"}
    assert int(rows["2"]["values_sent"]) == report["values_sent"]
    assert int(rows["2"]["dense_values"]) == report["dense_values"] == int(rows["0"]["dense_values"])
    assert float(rows["2"]["test_output_error"]) == pytest.approx(report["output_error"], rel=1e-3)


def test_forecasts_and_a_worker_without_a_tile(mpirun, folder):
    """For other numbers of ranks, too."""
    words = "--comm-budget", 0.6, "--by-position", 2, "--part-weights", "2,1,0", "--comm-dtype", "int8"
    run_restructure(mpirun, folder, *words)
    words = "forecast", folder / "shards", "--machine", "gigabit", "--ranks", "1,2,3,8"
    done = mpirun(1, "-m", "repurpose_hpc", *words, "--json")
    assert done.returncode == 0, done.stderr
    points = json.loads(done.stdout)["points"]
    assert [point["basis"] for point in points] == ["single", "scaled", "plan", "scaled"]
    words = "--shards", folder / "shards", "--input", folder / "x.npy", "--verify"
    done = mpirun(2, "-m", "repurpose_hpc.infer", *words, "--output", folder / "y.h5")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by_position": 5}, "by_position: expected at most 3 layers"),
        ({"by_position": "auto", "max_output_error": 1e-9, "comm_dtype": "int4"}, "even at comm_budget=1"),
        ({"by_position": "auto", "samples": 20}, "expected 50 calibration samples or more"),
        (
            {"by_position": 3, "memory_limits": (1, 0.005, 1)},
            r"by_position: .*found 0.0\d+ MiB of the layers by position for worker 1",
        ),
        ({"by_position": 3, "comm_budget": 0.01}, "sums of normalisations, halos"),
    ],
)
def test_what_cannot_be_is_said(folder, options, message):
    network, samples = load_model(folder / "model.onnx"), np.load(folder / "x.npy")
    count = options.pop("samples", 120)
    with pytest.raises(UserError, match=message):
        restructure_network(network, Samples.of(samples[:count]), workers=3, **options)
