"""Reports of the commands have exactly the keys that are declared, and the documents say which."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import ROOT, small_plans
from helpers.machines import PLAIN, with_network
from helpers.model_directories import llama
from helpers.nir_files import RECORDED
from repurpose_hpc.commands import doctor, forecast, inspect
from repurpose_hpc.doctor.facts import collect
from repurpose_hpc.forecast.machine import write_machine
from repurpose_hpc.forecast.modelled import ModelledTime
from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.nir.options import SpikingOptions
from repurpose_hpc.report.schema import REPORTS, InferReport, keys, problems
from repurpose_hpc.report.text import render, render_restructured
from repurpose_hpc.restructure.job import restructure_to
from repurpose_hpc.restructure.options import Options

PROMISE = {"minimised", "comm_budget", "trials"}
MODELLED = {"compute_budget", "machine", "modelled_us", "modelled_dense_us", "modelled_single_process_us"}
MEASURED = {"output_error_held_out", "agreement_held_out"}
LABELLED = {"labels", "labels_note"}
ACCURACY = LABELLED | {"accuracy", "reference_accuracy"}
ACCURACY_HELD_OUT = {"accuracy_held_out", "reference_accuracy_held_out"}
TARGETS = {"rmse", "reference_rmse", "r2", "reference_r2"}
TARGETS_HELD_OUT = {f"{name}_held_out" for name in TARGETS}
BALANCE = {"compute_seconds", "compute_imbalance", "suggested_part_weights"}
TIMED = {"latency_us", "phases_us", "single_process_latency_us", "speedup"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model, samples that it classifies rightly, and shards of it."""
    network = small_plans.random_network()
    small_plans.write_model(tmp_path / "model.npz", network)
    x = small_plans.write_samples(tmp_path / "x.npz", samples=400)
    np.savez(tmp_path / "x.npz", x=x, y=forward(network, x).argmax(axis=1))
    np.savez(tmp_path / "targets.npz", x=x, y=forward(network, x) + 1)
    np.savez(tmp_path / "left_alone.npz", x=x, y=np.zeros((400, 2, 3)))
    np.save(tmp_path / "unlabelled.npy", x)
    np.save(tmp_path / "few.npy", x[:49])
    small_plans.write_shards(tmp_path / "shards", 2, "partitioned")
    return tmp_path


def optional_keys(report: object, command: str) -> set[str]:
    """Those keys of a report that are not always there, after a look at all."""
    declared: Any = REPORTS[command]
    found = json.loads(json.dumps(report))
    assert problems(found, declared) == []
    return (found.keys() & declared.__optional_keys__) - {"command"}


@pytest.mark.parametrize(
    ("samples", "options", "expected"),
    [
        ("few.npy", {}, set()),
        ("unlabelled.npy", {}, MEASURED),
        ("left_alone.npz", {}, MEASURED | LABELLED),
        ("x.npz", {}, MEASURED | ACCURACY | ACCURACY_HELD_OUT),
        ("targets.npz", {}, MEASURED | LABELLED | TARGETS | TARGETS_HELD_OUT),
        ("few.npy", {"link_costs": ((0.0, 1.0), (2.0, 0.0))}, {"link_cost"}),
        ("few.npy", {"comm_dtype": "int8"}, set()),
        ("few.npy", {"lossless": True}, {"lossless"}),
        ("few.npy", {"max_output_error": 0.2}, MEASURED | PROMISE),
        (
            "few.npy",
            {"max_output_error": 0.2, "minimise": ModelledTime(PLAIN)},
            MEASURED | PROMISE | MODELLED,
        ),
        (
            "x.npz",
            {"max_accuracy_drop": 20.0},
            MEASURED | ACCURACY | ACCURACY_HELD_OUT | PROMISE | {"accuracy_drop", "accuracy_drop_bound"},
        ),
    ],
)
def test_restructure(folder, samples, options, expected):
    network, data = small_plans.random_network(), open_samples(folder / samples)
    report = restructure_to(
        folder / "out", network, data, Options(2, **options), np.float32, lambda line: None
    )
    assert optional_keys(report, "restructure") == expected
    assert f"comm dtype {report['comm_dtype']}" in render_restructured(report)


@pytest.mark.parametrize(
    ("model", "words", "expected"),
    [
        (False, ["--input", "unlabelled.npy", "--repeat", 0], BALANCE | {"first_result_seconds"}),
        (
            True,
            ["--input", "x.npz", "--repeat", 2, "--exchange", "auto", "--verify", "--certify"],
            BALANCE
            | TIMED
            | ACCURACY
            | {"first_result_seconds", "exchange_us"}
            | {"max_abs_difference", "relative_difference", "certified"},
        ),
        (
            False,
            ["--input", "x.npz", "--repeat", 0, "--exchange", "sparse", "--resume", "--output", "y.h5"],
            BALANCE
            | LABELLED
            | {"first_result_seconds", "accuracy", "sent_bytes_per_sample", "resumed_samples"},
        ),
    ],
)
def test_infer(mpirun, folder, model, words, expected):
    files = {"unlabelled.npy", "x.npz", "y.h5"}
    words = [folder / word if word in files else word for word in words]
    named = [folder / "model.npz"] if model else []
    command = ("-m", "repurpose_hpc.infer", *named, "--shards", folder / "shards", *words)
    done = mpirun(2, *command, "--report", folder / "report.json", timeout=600)
    assert done.returncode == 0, done.stderr
    found = optional_keys(json.loads((folder / "report.json").read_text()), "infer")
    # Which transport is the fastest is not known.
    assert found - {"sent_bytes_per_sample"} == expected - {"sent_bytes_per_sample"}
    assert ("sent_bytes_per_sample" in found) >= ("sent_bytes_per_sample" in expected)


def test_a_notable_imbalance_gets_a_line(mpirun, folder):
    """One that is small, or of a run too short to tell, gets none, nor does a run that computed nothing."""
    words = ["--shards", folder / "shards", "--input", folder / "x.npz", "--repeat", 0]
    done = mpirun(2, "-m", "repurpose_hpc.infer", *words, "--report", folder / "report.json", timeout=600)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "report.json").read_text())

    def lines(seconds: list[float], imbalance: float) -> list[str]:
        changed = {"compute_seconds": seconds, "compute_imbalance": imbalance}
        text = render({**report, **changed, "suggested_part_weights": [0.333, 1.0]})
        return [line for line in text.splitlines() if line.startswith("imbalance")]

    (line,) = lines([3.0, 1.0], 1.5)
    assert "  rank 0 computed 1.50 times as long as the mean of all; " in line
    assert " --part-weights 0.333,1 would even" in line and line.endswith(" --part-weights auto")
    assert lines([1.1, 1.0], 1.05) == lines([0.03, 0.01], 1.5) == []
    without = {name: value for name, value in report.items() if name not in BALANCE}
    assert "\nimbalance" not in render(without)


@pytest.mark.parametrize("workers", [None, 2])
def test_doctor(workers):
    report = doctor.summarise([collect(1.0, "MPICH", [])], 10.0, workers)
    assert optional_keys(report, "doctor") == (set() if workers is None else {"workers"})


def test_point(mpirun, folder):
    words = ["--batches", "1,3", "--repeat", "2", "--seconds", "1", "--dtype", "float32", "--ranks", "2"]
    command = ("-m", "repurpose_hpc", "point", "--shards", folder / "shards", *words)
    done = mpirun(2, *command, "--report", folder / "report.json", timeout=600)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "report.json").read_text())
    assert optional_keys(report, "point") == set() and len(report["batches"]) == 2


@pytest.mark.filterwarnings("ignore::repurpose_hpc.errors.Note")
def test_inspect(folder):
    report = inspect.inspect(folder / "model.npz", workers=3)
    assert optional_keys(report, "inspect") == {
        *("inputs", "outputs", "spaces", "mixings", "workers", "weights", "multiply_adds", "dense_values"),
        *("front", "back", "input_placement"),
    }
    of_shards = inspect.inspect_shards(folder / "shards")
    assert optional_keys(of_shards, "inspect") == {*optional_keys(report, "inspect"), "values_sent", "relays"}
    unsupported = {"model": "m.onnx", "supported": False, "unsupported": ["node 'x'"]}
    assert optional_keys(unsupported, "inspect") == set()
    spiking = SpikingOptions(steps=3, convention="sinabs")
    of_trains = inspect.inspect(RECORDED / "sinabs.nir", 2, spiking=spiking)
    assert optional_keys(of_trains, "inspect") == {*optional_keys(report, "inspect"), "reading"}


@pytest.mark.parametrize("subject", ["shards", "model.npz"])
def test_forecast(folder, subject):
    write_machine(folder / "machine.json", with_network(latency_us=1))
    line = f"{folder / subject} --machine {folder / 'machine.json'} --ranks 1,2,16"
    report = forecast.predict(forecast.parse(line.split()))
    assert optional_keys(report, "forecast") == {"restructured"}


def test_forecast_of_a_transformer(tmp_path):
    pytest.importorskip("safetensors")
    line = f"{llama(tmp_path / 'model')} --machine gigabit --ranks 1,2"
    report = forecast.predict(forecast.parse(line.split()))
    assert optional_keys(report, "forecast") == {"tokens", "context"}
    assert all("restructured" not in point for point in report["points"])


def test_differences_are_found():
    report = {"ranks": 2.5, "layers": [], "latency_us": {"median": True, "p10": 1, "p90": 2}}
    found = problems(report, InferReport)
    assert "report.workers: expected, not found" in found
    assert "report.layers: found, not declared" in found
    assert "report.ranks: expected integer, found 2.5" in found
    assert "report.latency_us.median: expected number, found True" in found
    assert problems([{"a": 1}, {"a": None}], list[dict[str, int | None]]) == []
    assert problems([{"a": "1"}], list[dict[str, int | None]]) == ["report[].a: expected integer, found '1'"]


@pytest.mark.parametrize("command", REPORTS)
def test_keys_are_documented(command):
    for name, _, key in keys(REPORTS[command]):
        assert name and key.text and not key.text.endswith(".")
    assert f"<!-- report: {command} -->" in (ROOT / "docs/formats.md").read_text()


def test_tables_of_the_documents_are_up_to_date():
    command = [sys.executable, ROOT / "scripts/tables.py", "--check"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
