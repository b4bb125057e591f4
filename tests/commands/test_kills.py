"""Runs that are killed, and two runs of one thing at once: nothing is lost, nothing is left."""

import csv
import os
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from faults.job import Outcome, Run, command, temporary_files

from helpers import small_plans
from helpers.injection import FORWARD, GO, KILL, NOTE, WAIT, Injection

pytestmark = pytest.mark.slow

IN_PLACE = "repurpose_hpc.io.atomic:put_in_place"
STUDY = "study model.npz --calibration x.npz --test x.npz --out study --workers 2 --methods data --budgets"
RESTRUCTURE = "restructure model.npz --calibration x.npz --workers 3 --out shards"
INFER = "infer --shards two --input x.npz --output y.h5 --repeat 0 --batch-size 4 --resume"
MODEL = "infer model.npz --calibration x.npz --input x.npz --workers 2 --repeat 0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, samples, and shards for two workers."""
    small_plans.write_model(tmp_path / "model.npz", small_plans.random_network())
    small_plans.write_samples(tmp_path / "x.npz", samples=60)
    small_plans.write_shards(tmp_path / "two", 2)
    return tmp_path


def start(folder: Path, words: str, *injections: Injection) -> Run:
    return Run(command(words.split()), folder, injections)


def finish(run: Run) -> Outcome:
    return run.outcome(since=time.time())


def test_no_ranks_outlive_scaling(folder):
    stands_still = Injection(FORWARD, f"{NOTE}time.sleep(120)", call=3, process=1)
    words = "scaling strong --ranks 2 --width 64 --batches 1 --out scaling"
    run = start(folder, words, stands_still)
    assert run.wait_for(run.reached)
    os.kill(run.process.pid, signal.SIGKILL)
    outcome = finish(run)
    assert outcome.status == -signal.SIGKILL and outcome.left == 0
    # What it could not tidy up any more, the next run does.
    assert finish(start(folder, words)).status == 0
    assert not temporary_files(folder / "scaling")


def test_the_next_run_removes_what_a_killed_one_has_written_of_a_plan(folder):
    killed = Injection("repurpose_hpc.plan.files.store:write_shard", KILL, call=3)
    assert finish(start(folder, RESTRUCTURE, killed)).status == -signal.SIGKILL
    (left,) = temporary_files(folder)
    assert (left / "complete" / "worker-0001.h5").exists() and not (folder / "shards").exists()
    assert finish(start(folder, RESTRUCTURE)).status == 0
    assert not temporary_files(folder) and (folder / "shards" / "plan.h5").exists()


def test_a_study_of_samples_that_are_replaced_underway(folder):
    small_plans.write_samples(folder / "other.npz", samples=60, seed=5)
    replaced = Injection(
        "repurpose_hpc.studies.accuracy.study:measure", "import os; os.replace('other.npz', 'x.npz')", call=2
    )
    outcome = finish(start(folder, f"{STUDY} 0.5,0.2", replaced))
    assert outcome.status == 1 and outcome.messages == 1
    assert "x.npz: expected the file as it was at the start" in outcome.text
    assert budgets(folder) == ["0.5"]


def budgets(folder: Path) -> list[str]:
    with open(folder / "study" / "study.csv", newline="") as file:
        return [row["budget"] for row in csv.DictReader(file)]


def test_two_studies_of_one_table(folder):
    """The second would lose the rows of the first, or the first those of the second."""
    first = start(folder, f"{STUDY} 0.5", Injection(IN_PLACE, WAIT, call=2))
    assert first.wait_for(first.reached)
    second = finish(start(folder, f"{STUDY} 0.2"))
    assert second.status == 1 and second.messages == 1
    assert "study/study.csv: expected no other run that writes it, found one at work" in second.text
    (first.notes / GO).touch()
    assert finish(first).status == 0 and finish(start(folder, f"{STUDY} 0.2")).status == 0
    assert budgets(folder) == ["0.5", "0.2"] and not temporary_files(folder)


def test_an_output_is_locked_until_it_has_its_name(folder):
    first = start(folder, INFER, Injection(IN_PLACE, WAIT))
    assert first.wait_for(first.reached)
    second = finish(start(folder, INFER))
    assert second.status == 1 and "found one at work" in second.text
    (first.notes / GO).touch()
    assert finish(first).status == 0 and (folder / "y.h5").exists()


def test_two_runs_that_make_one_entry_of_the_cache(folder):
    """The second finishes first, and removes what an interrupted run would have gone on with."""
    first = start(folder, f"{MODEL} --output first.h5", Injection(IN_PLACE, WAIT))
    assert first.wait_for(first.reached)
    assert finish(start(folder, f"{MODEL} --output second.h5")).status == 0
    (first.notes / GO).touch()
    outcome = finish(first)
    assert outcome.status == 0, outcome.text
    with h5py.File(folder / "first.h5") as one, h5py.File(folder / "second.h5") as other:
        np.testing.assert_array_equal(one["y"][()], other["y"][()])
    assert not temporary_files(folder)
