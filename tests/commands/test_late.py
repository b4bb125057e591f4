"""``infer --exchange-late``: what it says of its sweeps, and what it refuses."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers import small_plans
from repurpose_hpc.model.forward import forward
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
    messages = [line for line in done.stderr.splitlines() if line.startswith("repurpose-hpc: error:")]
    assert (
        done.returncode != 0
        and len(messages) == 1
        and "--certify: expected a run in the exact order" in messages[0]
    )
