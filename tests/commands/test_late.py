"""``infer --exchange-late``: what it says of its sweeps, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers import ROOT, small_plans
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.plan.files.store import open_plan, read_network
from repurpose_hpc.plan.late import late
from repurpose_hpc.plan.rounds import rounds_of

WORKERS = 3


@pytest.fixture
def case(tmp_path: Path):
    network, plan = small_plans.write_shards(tmp_path / "shards", WORKERS, "replicated")
    x = small_plans.write_samples(tmp_path / "x.npz", samples=20)
    return tmp_path, network, plan, x


def infer(mpirun, folder, *words):
    paths = {"--shards": "shards", "--input": "x.npz", "--output": "y.h5", "--report": "report.json"}
    files = [word for option, name in paths.items() for word in (option, str(folder / name))]
    return mpirun(WORKERS, "-m", "repurpose_hpc.infer", *files, "--repeat", "2", *words)


def test_sweeps_are_those_of_the_reference_and_the_last_is_exact(mpirun, case):
    folder, network, plan, x = case
    exact = 1 + rounds_of(network, plan)
    for sweeps in (exact - 1, exact):
        done = infer(mpirun, folder, "--exchange-late", str(sweeps), "--verify")
        assert done.returncode == 0, done.stderr
        report = json.loads((folder / "report.json").read_text())
        assert (report["sweeps"], report["sweeps_exact"], report["rounds"]) == (sweeps, exact, sweeps - 1)
        assert report["relative_difference"] < 1e-5
        said = "exact" if sweeps == exact else f"an approximation, exact with {exact}"
        assert f"{sweeps} with late exchanges: {said}" in done.stdout
        with h5py.File(folder / "y.h5") as file:
            found = file["y"][:]
        np.testing.assert_allclose(found, forward(late(network, plan, sweeps).network(network), x), atol=1e-5)
    np.testing.assert_allclose(found, forward(network, x), atol=1e-5)


def test_what_does_not_go_with_it_is_refused(mpirun, case):
    folder, *_ = case
    done = infer(mpirun, folder, "--exchange-late", "0")
    assert done.returncode == 2 and "--exchange-late: expected an integer, 1 or more, got 0" in done.stderr
    small_plans.write_model(folder / "model.npz", small_plans.random_network())
    done = infer(mpirun, folder, str(folder / "model.npz"), "--exchange-late", "2", "--certify")
    assert_one_message(done, "--certify: expected a run in the exact order")


def command(*words):
    return subprocess.run(
        [sys.executable, "-m", "repurpose_hpc", *map(str, words)], capture_output=True, text=True, cwd=ROOT
    )


def test_weights_for_sweeps_run_without_further_options(mpirun, tmp_path):
    small_plans.write_model(tmp_path / "model.npz", small_plans.random_network(widths=(12, 30, 28, 5)))
    x = small_plans.write_samples(tmp_path / "x.npz", samples=80)
    words = ("restructure", tmp_path / "model.npz", "--calibration", tmp_path / "x.npz", "--workers", WORKERS)
    words = (*words, "--comm-budget", "0.3", "--late", "2", "--out", tmp_path / "shards")
    done = command(*words, "--report", tmp_path / "made.json")
    assert done.returncode == 0, done.stderr
    assert "2 with late exchanges, each with weights of its own" in done.stdout
    made = json.loads((tmp_path / "made.json").read_text())
    assert (made["sweeps"], made["rounds"], made["bound"]) == (2, 1, None)

    done = infer(mpirun, tmp_path, str(tmp_path / "model.npz"), "--verify")
    assert done.returncode == 0, done.stderr
    assert "2 with late exchanges, each with weights of its own" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["sweeps"], report["rounds"], report["values_sent"]) == (2, 1, made["values_sent"])
    assert (report["weights"], report["dense_values"]) == (made["weights"], made["dense_values"])
    assert report["relative_difference"] < 1e-5 and "sweeps_exact" not in report
    network = read_network(open_plan(tmp_path / "shards"))
    with h5py.File(tmp_path / "y.h5") as file:
        np.testing.assert_allclose(file["y"][:], forward(network, x), atol=1e-5)

    done = command("inspect", tmp_path / "shards")
    assert "values sent per sample in 2 sweeps with late exchanges" in done.stdout
    assert "--late 2" in done.stdout
    done = command("export", tmp_path / "shards", "--to", tmp_path / "exported.onnx")
    assert done.returncode == 0, done.stderr
    found = forward(load_model(tmp_path / "exported.onnx"), x)
    np.testing.assert_allclose(found, forward(network, x), atol=1e-5)

    for option in (("--exchange-late", "3"), ("--certify",)):
        done = infer(mpirun, tmp_path, str(tmp_path / "model.npz"), *option)
        assert_one_message(done, f"{option[0]}: expected shards for the exact order")
    done = mpirun(
        1,
        *(
            "-m",
            "repurpose_hpc",
            "finetune",
            "--shards",
            str(tmp_path / "shards"),
            "--out",
            str(tmp_path / "t"),
        ),
        *("--data", str(tmp_path / "x.npz"), "--distill", str(tmp_path / "model.npz"), "--local"),
    )
    assert_one_message(done, "--local: expected shards for the exact order")


def test_transformers_for_texts_have_no_sweeps(tmp_path):
    language = ROOT / "repurpose_hpc" / "bundled" / "language"
    words = ("restructure", language, "--calibration", language / "calibration.npz", "--workers", "2")
    assert_one_message(
        command(*words, "--late", "2", "--out", tmp_path / "shards"), "--late has no effect on"
    )


def assert_one_message(done, words):
    messages = [line for line in done.stderr.splitlines() if line.startswith("repurpose-hpc: error:")]
    assert done.returncode != 0 and len(messages) == 1 and words in messages[0], done.stderr
