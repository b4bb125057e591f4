"""``--trace`` of commands: a file that viewers open, and nothing else than without it."""

import json

import h5py
import numpy as np
import pytest

from helpers import small_plans
from helpers.model_directories import llama
from repurpose_hpc.plan.files.store import open_plan, read_network


@pytest.fixture
def run(mpirun, tmp_path):
    def start(ranks, command, *words, status=0):
        done = mpirun(ranks, "-m", "repurpose_hpc", command, *map(str, words))
        assert done.returncode == status, done.stderr
        return done

    small_plans.write_shards(tmp_path / "shards", 3)
    small_plans.write_samples(tmp_path / "x.npz", samples=40)
    return start


def slices(path):
    """The slices of a trace, and all of it."""
    trace = json.loads(path.read_text())
    return [event for event in trace["traceEvents"] if event["ph"] == "X"], trace


def test_infer(run, tmp_path):
    trace, report, shards = tmp_path / "trace.json", tmp_path / "report.json", tmp_path / "shards"
    words = ("--shards", shards, "--input", tmp_path / "x.npz", "--batch-size", 16, "--repeat", 3)
    plain, traced = tmp_path / "plain.h5", tmp_path / "traced.h5"
    run(2, "infer", *words, "--output", plain)
    done = run(2, "infer", *words, "--output", traced, "--trace", trace, "--report", report)
    with h5py.File(plain) as one, h5py.File(traced) as other:
        np.testing.assert_array_equal(one["y"], other["y"])
    found, whole = slices(trace)
    seconds, layers = json.loads(report.read_text())["seconds"], read_network(open_plan(shards)).mixings
    for rank in (0, 1):
        of_rank = [each for each in found if each["pid"] == rank]
        # The timed forwards are not in it.
        assert [each["args"]["samples"] for each in of_rank if each["cat"] == "batch"] == [16, 16, 8]
        names = {name for each in of_rank if each["cat"] == "layer" for name in each["name"].split(", ")}
        assert {layer.name for layer in layers} <= names
        assert {"load", "jit", "input", "output"} <= {each["name"] for each in of_rank}
        spent = sum(each["dur"] for each in of_rank if each["cat"] in ("exchange", "wait"))
        # Of the rank where it was longest.
        assert 0 < spent <= 1e6 * (seconds["exchange"] + seconds["wait"]) + 1
    assert whole["otherData"]["ranks"] == 2 and whole["otherData"]["batches_left_out"] == 0
    assert 0 < whole["otherData"]["clock_error_us"] < 1e6
    assert "note" not in done.stderr


def test_generate(run, tmp_path):
    trace, ids = tmp_path / "trace.json", tmp_path / "ids.npy"
    np.save(ids, np.array([[1, 2, 3, 4]]))
    run(2, "generate", llama(tmp_path), "--ids", ids, "--tokens", 5, "--trace", trace)
    found, _ = slices(trace)
    for rank in (0, 1):
        batches = [each for each in found if each["pid"] == rank and each["cat"] == "batch"]
        # The prompt, then a token a step; nothing is computed for the last one.
        assert [each["args"]["samples"] for each in batches] == [4, 1, 1, 1, 1]


def test_a_place_that_cannot_be_written_is_found_before_the_run(run, tmp_path):
    words = ("--shards", tmp_path / "shards", "--input", tmp_path / "x.npz", "--output", tmp_path / "y.h5")
    nowhere = tmp_path / "nowhere" / "trace.json"
    done = run(1, "infer", *words, "--trace", nowhere, status=1)
    assert f"{nowhere}: expected a directory that exists, found none: {nowhere.parent}; make" in done.stderr
    assert not (tmp_path / "y.h5").exists()
    same = tmp_path / "x.npz"
    assert "--trace: expected a place of its own" in run(1, "infer", *words, "--trace", same, status=2).stderr
