"""Runs that end early: ``infer --resume`` goes on where they ended, and nothing is left half-written."""

import json
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers import small_plans
from helpers.injection import after_batches, marking_at_once, signalled, variables
from repurpose_hpc.runtime.streams.outputs import ResumableOutputFile

MODULE = ("-m", "repurpose_hpc.infer")
BATCH, KILLED_AFTER = 4, 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Shards for two workers and samples."""
    small_plans.write_shards(tmp_path / "shards", 2)
    small_plans.write_samples(tmp_path / "x.npz")
    return tmp_path


@pytest.fixture
def interrupted(mpirun, folder, tmp_path_factory):
    """A function that runs the command until a signal ends it, after rank 0 has written some batches."""

    def run(name: str, *args: object) -> None:
        end = after_batches(KILLED_AFTER, signalled(signal.Signals[name]))
        env = variables([marking_at_once(), end], tmp_path_factory.mktemp("notes"))
        done = mpirun(2, *MODULE, *usual(folder), *args, timeout=60, env=env)
        assert done.returncode != 0
        assert "repurpose-hpc: error" not in done.stderr
        assert not (folder / "y.h5").exists()

    return run


def usual(folder: Path) -> list[object]:
    files = ("--shards", folder / "shards", "--input", folder / "x.npz", "--output", folder / "y.h5")
    return [*files, "--batch-size", BATCH, "--repeat", 0]


def run(mpirun, folder: Path, *args: object) -> dict:
    report = folder / "report.json"
    done = mpirun(2, *MODULE, *usual(folder), *args, "--report", report)
    assert done.returncode == 0, done.stderr
    return json.loads(report.read_text())


def outputs(folder: Path) -> np.ndarray:
    with h5py.File(folder / "y.h5") as file:
        assert not file["y"].attrs
        return file["y"][()]


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_what_was_interrupted_is_resumed(mpirun, interrupted, folder, name):
    whole = run(mpirun, folder)
    expected = outputs(folder)
    (folder / "y.h5").unlink()
    interrupted(name, "--resume")
    resumed = run(mpirun, folder, "--resume", "--verify")
    # Killed after a batch was written and before that was noted.
    assert resumed["resumed_samples"] == BATCH * (KILLED_AFTER - (name == "SIGKILL"))
    assert resumed["accuracy"] == whole["accuracy"]
    np.testing.assert_array_equal(outputs(folder), expected)
    assert not list(folder.glob(".y.h5*"))


def test_a_deterministic_run_goes_on_after_its_like_alone(mpirun, interrupted, folder):
    interrupted("SIGTERM", "--resume")
    assert run(mpirun, folder, "--resume", "--deterministic")["resumed_samples"] == 0
    expected = outputs(folder)
    (folder / "y.h5").unlink()
    interrupted("SIGTERM", "--resume", "--deterministic")
    assert run(mpirun, folder, "--resume", "--deterministic")["resumed_samples"] > 0
    assert outputs(folder).tobytes() == expected.tobytes()


def test_sigterm_leaves_nothing_behind(interrupted, folder):
    interrupted("SIGTERM")
    assert not list(folder.glob(".y.h5*"))


def test_other_samples_are_not_resumed(mpirun, interrupted, folder):
    interrupted("SIGTERM", "--resume")
    assert list(folder.glob(".y.h5.resume"))
    small_plans.write_samples(folder / "x.npz", seed=5)
    assert run(mpirun, folder, "--resume")["resumed_samples"] == 0


def test_resume_needs_an_output(mpirun, folder):
    done = mpirun(1, *MODULE, "--shards", folder / "shards", "--input", folder / "x.npz", "--resume")
    assert done.returncode == 2 and "--resume needs --output" in done.stderr


@pytest.mark.parametrize("damage", [b"", b"not HDF5", None])
def test_what_cannot_be_resumed_is_begun_anew(tmp_path, damage):
    path, shape = tmp_path / "y.h5", (6, 2)
    file = ResumableOutputFile(path, *shape, np.float32, "key")
    file.append(np.ones((2, 2)))
    file.discard()
    partial = tmp_path / ".y.h5.resume"
    partial.write_bytes(partial.read_bytes()[:700] if damage is None else damage)
    again = ResumableOutputFile(path, *shape, np.float32, "key")
    assert again.written == 0
    again.discard()
    assert not partial.exists()


def test_nothing_but_the_same_run_is_resumed(tmp_path):
    rows = np.arange(4.0, dtype=np.float32).reshape(2, 2)
    for key, there in (("a", 0), ("a", 2), ("b", 0), ("b", 2)):
        file = ResumableOutputFile(tmp_path / "y.h5", 6, 2, np.float32, key)
        assert file.written == there
        assert all(np.array_equal(batch, rows) for batch in file.read(4))
        file.append(rows)
        file.written = 2
        file.discard()


def test_sigterm_is_as_before_afterwards():
    from repurpose_hpc.mpi.agreement import alone

    before = signal.getsignal(signal.SIGTERM)
    with alone():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
