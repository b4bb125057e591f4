"""``--minimise time``: a promise whose search looks for the least modelled time, from a command line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers import small_plans
from helpers.machines import with_network
from repurpose_hpc.commands import infer, restructure
from repurpose_hpc.commands.forecast import parse, predict
from repurpose_hpc.commands.parser import restructure_options
from repurpose_hpc.errors import UsageError
from repurpose_hpc.forecast.machine import THIS_FILE, read_machine, write_machine
from repurpose_hpc.forecast.modelled import ModelledTime
from repurpose_hpc.forecast.rounds import round_cost

WORDS = ("model.npz", "--out", "out", "--calibration", "x.npz", "--workers", "2")
TIME = ("--minimise", "time")
FORMS = ("--forms", "ghosts,sums")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, samples, and a machine file."""
    network = small_plans.random_network(widths=(30, 60, 50, 5))
    small_plans.write_model(tmp_path / "model.npz", network)
    small_plans.write_samples(tmp_path / "x.npz", samples=300, width=30)
    write_machine(tmp_path / "machine.json", with_network(latency_us=1, gb_per_s=0.1))
    return tmp_path


def test_the_machine_and_with_it_the_price_of_a_round(tmp_path):
    gigabit = read_machine("gigabit", tmp_path)
    given = {"workers": 4, "minimise": "time", "machine": "gigabit", "max_output_error": 0.1}
    options = restructure_options(given, None)
    assert options.minimise == ModelledTime(gigabit)
    assert options.round_cost == round_cost(gigabit, 4)
    assert restructure_options({**given, "round_cost": 7.0}, None).round_cost == 7
    assert (
        restructure_options({**given, "minimise": "values", "round_cost": "auto"}, None).minimise == "values"
    )


def test_less_computation_and_the_forecast_agrees(mpirun, folder):
    reports = {}
    for aim, words in (("values", ()), ("time", ("--machine", folder / "machine.json"))):
        done = mpirun(
            2,
            *("-m", "repurpose_hpc.restructure", folder / "model.npz", "--calibration", folder / "x.npz"),
            *("--workers", 2, "--max-output-error", 0.1, "--minimise", aim, *words, *FORMS),
            *("--out", folder / aim, "--report", folder / "report.json"),
        )
        assert done.returncode == 0, done.stderr
        reports[aim] = json.loads((folder / "report.json").read_text())
        assert reports[aim]["minimised"] == aim
        assert reports[aim]["output_error_held_out"] <= 0.1
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("modelled time "))
    found = reports["time"]
    modelled, dense = (f"{found[key]:,.1f} µs" for key in ("modelled_us", "modelled_dense_us"))
    assert f" {modelled} for a sample" in line and f"; dense {dense}, one process" in line
    assert found["compute_fraction"] < reports["values"]["compute_fraction"]
    machine = ("--machine", str(folder / "machine.json"), "--ranks", "2")
    forecasts = {
        aim: predict(parse([str(folder / aim), *machine]))["points"][0]["restructured"] for aim in reports
    }
    assert forecasts["time"]["total_us"] == pytest.approx(found["modelled_us"], rel=1e-9)
    assert forecasts["time"]["total_us"] < forecasts["values"]["total_us"]


def test_infer_keeps_what_it_found(mpirun, folder):
    command = ("-m", "repurpose_hpc.infer", folder / "model.npz", "--input", folder / "x.npz")
    options = ("--max-output-error", 0.2, *TIME, *FORMS, "--machine", folder / "machine.json")
    for cached in (False, True):
        done = mpirun(
            *(2, *command, "--calibration", folder / "x.npz", *options, "--repeat", 0),
            *("--report", folder / "report.json"),
            env={"REPURPOSE_HPC_CACHE": str(folder / "cache")},
        )
        assert done.returncode == 0, done.stderr
        assert json.loads((folder / "report.json").read_text())["cached"] is cached


def test_what_does_not_fit(tmp_path, monkeypatch):
    monkeypatch.setenv("REPURPOSE_HPC_CACHE", str(tmp_path))
    tolerance, gigabit = ("--max-accuracy-drop", "1"), ("--machine", "gigabit")
    for words, expected in (
        (
            (*TIME, *gigabit),
            r"--minimise: expected a promise, .* budget; add --max-accuracy-drop 0.5 or --max-",
        ),
        ((*TIME, *gigabit, "--comm-budget", "0.1"), "--minimise: expected a promise, .* found a budget"),
        (
            (*TIME, *tolerance),
            r"--machine: expected .*machine.json for this, found none; .* repurpose_hpc probe",
        ),
        (
            (*TIME, *tolerance, "--machine", "none.json"),
            "--machine: expected this, a file, or one of .*none.json",
        ),
        ((*tolerance, *gigabit), "--machine has no effect without .* or --minimise time"),
        (("--minimise", "bytes", *tolerance), "--minimise: expected one of values, time, got 'bytes'"),
    ):
        with pytest.raises(UsageError, match=expected):
            restructure.parse([*WORDS, *words])
    with pytest.raises(UsageError, match="--minimise has no effect: --shards are restructured already"):
        infer.parse(["--shards", "shards", "--input", "x.npz", *TIME])
    with pytest.raises(
        UsageError, match="--minimise: expected as many ranks as workers, .* 2 ranks for --work"
    ):
        infer.parse(
            ["m", "--calibration", "x", "--input", "x", "--workers", "4", *TIME, *tolerance, *gigabit], 2
        )


def test_a_machine_without_links_for_the_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("REPURPOSE_HPC_CACHE", str(tmp_path))
    machine = with_network(latency_us=1)
    write_machine(tmp_path / THIS_FILE, replace(machine, network=None, ranks_per_node=1))
    given = {"workers": 2, "minimise": "time", "max_output_error": 0.1, "round_cost": 5.0}
    with pytest.raises(
        UsageError, match="expected links for 2 ranks, found those of 1 in plain; probe on more"
    ):
        restructure_options(given, None)


def test_classes_within_the_drop(mpirun, folder):
    """A promise on accuracy, with the least time of one worker."""
    x = np.load(folder / "x.npz")["x"]
    np.savez(folder / "labelled.npz", x=x, y=np.arange(len(x)) % 5)
    done = mpirun(
        1,
        *("-m", "repurpose_hpc.restructure", folder / "model.npz", "--calibration", folder / "labelled.npz"),
        *("--workers", 1, "--max-accuracy-drop", 20, *TIME, *FORMS, "--machine", folder / "machine.json"),
        *("--out", folder / "out", "--report", folder / "report.json"),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "report.json").read_text())
    assert report["accuracy_drop"] <= 20 and report["compute_budget"] < 1
    assert report["modelled_us"] < report["modelled_single_process_us"] == report["modelled_dense_us"]
