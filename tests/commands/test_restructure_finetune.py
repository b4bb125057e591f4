"""``restructure --finetune``: what was cut is tuned in memory, and a promise is one about that."""

import json

import numpy as np
import pytest

from helpers import small_plans
from repurpose_hpc.errors import PREFIX
from repurpose_hpc.model.forward import forward
from repurpose_hpc.plan.files.store import open_plan, read_network, shard_path

SAMPLES, WORKERS = 4000, 3


@pytest.fixture
def restructure(mpirun, tmp_path):
    """A function that runs the command: its report, and what it said."""
    small_plans.write_model(tmp_path / "model.npz", small_plans.random_network(head="identity"))
    x = np.random.default_rng(1).normal(size=(SAMPLES, small_plans.WIDTHS[0]))
    np.savez(tmp_path / "x.npz", x=x)

    def run(*args: object, out: str, ranks: int = 1, status: int = 0) -> tuple[dict, str]:
        files = tmp_path / "model.npz", "--calibration", tmp_path / "x.npz", "--out", tmp_path / out
        words = *files, "--workers", WORKERS, "--report", tmp_path / "report.json", *args
        done = mpirun(ranks, "-m", "repurpose_hpc", "restructure", *words)
        assert done.returncode == status, done.stderr
        return {} if status else json.loads((tmp_path / "report.json").read_text()), done.stderr

    return run


def error(tmp_path, name: str) -> float:
    """That of the outputs on other samples than those that it was made with."""
    x = np.random.default_rng(2).normal(size=(1000, small_plans.WIDTHS[0]))
    expected = forward(small_plans.random_network(head="identity"), x)
    return float(np.linalg.norm(forward(read_network(open_plan(tmp_path / name)), x) - expected))


def test_it_is_tuned_and_the_plan_stays(restructure, tmp_path):
    words = "--comm-budget", 0.1, "--input-placement", "partitioned"
    restructure(*words, out="cut")
    _, said = restructure(*words, "--finetune", 30, out="tuned")
    assert "tuning: epoch 2: loss" in said
    cut, tuned = (open_plan(tmp_path / name) for name in ("cut", "tuned"))
    assert tuned.plan.identity() == cut.plan.identity()
    assert tuned.provenance["refined"] == {"epochs": 30, "seed": 0}
    assert error(tmp_path, "tuned") < error(tmp_path, "cut")


def test_the_same_bits_for_any_ranks(restructure, tmp_path):
    words = "--comm-budget", 0.1, "--finetune", 2
    for ranks in (1, 3):
        restructure(*words, out=f"of{ranks}", ranks=ranks)
    for q in range(WORKERS):
        first, second = (shard_path(tmp_path / f"of{ranks}", q).read_bytes() for ranks in (1, 3))
        assert first == second


def test_a_promise_is_about_what_was_tuned(restructure):
    words = "--max-output-error", 0.3, "--input-placement", "partitioned"
    report, said = restructure(*words, "--finetune", 2, out="promised")
    assert report["output_error_held_out"] <= 0.3
    assert said.count("tuning: before") >= report["trials"]


def test_too_few_samples_are_refused_at_once(restructure, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((49, small_plans.WIDTHS[0])))
    _, said = restructure("--finetune", 1, out="out", status=1)
    (message,) = [line for line in said.splitlines() if PREFIX in line]
    assert "--finetune: expected at least 50" in message and "found 49" in message
