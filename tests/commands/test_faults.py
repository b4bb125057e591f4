"""Faults injected into running commands: a message, no final name, nothing wrong in silence."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import environment
import h5py
import numpy as np
import pytest

from helpers import ROOT, small_plans
from helpers.injection import FORWARD, KILL, Injection, after_batches, marking_at_once, signalled, variables
from repurpose_hpc.errors import PREFIX
from repurpose_hpc.plan.files.store import PLAN_FILE

SAMPLES = 40_000

MODULE = ("-m", "repurpose_hpc.infer")
# What the statements that are injected need.
PRELUDE = "import os, shutil, time\nfrom pathlib import Path\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Shards for two workers and samples."""
    small_plans.write_shards(tmp_path / "shards", 2)
    small_plans.write_samples(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as arrays:
        np.save(tmp_path / "x.npy", np.resize(arrays["x"], (SAMPLES, *arrays["x"].shape[1:])))
    small_plans.write_model(tmp_path / "model.npz", small_plans.random_network())
    return tmp_path


def words(folder: Path, *more: object) -> list[object]:
    files = ("--shards", folder / "shards", "--input", folder / "x.npy", "--output", folder / "y.h5")
    return [*files, "--repeat", 0, *more]


def only_message(done: subprocess.CompletedProcess) -> str:
    (message,) = [line for line in done.stderr.splitlines() if PREFIX in line]
    assert done.returncode not in (0, None) and "Traceback" not in done.stderr
    return message.removeprefix(PREFIX)


def meanwhile(mpirun, folder: Path, fault: str, *more: object) -> str:
    """The message of a run during which ``fault`` happens, a statement; ``HERE`` is the folder in it."""
    env = injected(folder, fault.replace("HERE", f"Path({str(folder)!r})"))
    done = mpirun(2, *MODULE, *words(folder, "--batch-size", 256, *more), timeout=60, env=env)
    assert not (folder / "y.h5").exists()
    return only_message(done)


def injected(folder: Path, fault: str) -> dict[str, str]:
    """The environment of ``infer`` in which ``fault`` happens after the second batch, on the root."""
    return variables([marking_at_once(), after_batches(2, PRELUDE + fault)], folder)


# Once MPI has its own files, others may have 256 KiB; the outputs need more.
FULL = Injection(
    "repurpose_hpc.commands.infer",
    "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (1 << 18, r.getrlimit(r.RLIMIT_FSIZE)[1]))",
)


@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_a_disk_that_is_full(mpirun, folder, resume):
    done = mpirun(2, *MODULE, *words(folder, *resume), env=variables([FULL], folder))
    assert "y.h5: expected to be able to write there" in only_message(done)
    assert not list(folder.glob("*y.h5*")) and not list(folder.glob(".*y.h5*"))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("(HERE / 'x.npy').write_bytes(b'other')", "x ends before sample"),
        ("os.truncate(HERE / 'x.npy', 5000)", "x ends before sample"),
        ("os.utime(HERE / 'x.npy')", "found another one (modified, changed differ)"),
        ("(HERE / 'x.npy').unlink()", "found none: No such file"),
        ("shutil.copy(HERE / 'x.npy', HERE / 'z'); os.replace(HERE / 'z', HERE / 'x.npy')", "inode"),
    ],
)
def test_input_that_changes_underway(mpirun, folder, fault, expected):
    message = meanwhile(mpirun, folder, fault)
    assert "x.npy" in message and expected in message
    assert not list(folder.glob(".y.h5*"))


@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_an_output_directory_that_goes_away(mpirun, folder, more):
    (folder / "out").mkdir()
    fault = "shutil.rmtree(HERE / 'out')"
    message = meanwhile(mpirun, folder, fault, "--output", folder / "out" / "y.h5", *more)
    said = "expected a directory that exists" if more else "expected to be able to write there"
    assert "/out/" in message and said in message
    # At the next rows, not at the end, when it would get its name.
    assert more or "was removed while it was written" in message


def test_other_input_of_the_same_size_and_time_is_not_resumed(mpirun, folder):
    meanwhile_killed(mpirun, folder)
    file, about = folder / "x.npy", os.stat(folder / "x.npy")
    np.save(file, np.load(file) + 1)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert file.stat().st_size == about.st_size
    assert resumed(mpirun, folder) == 0


def test_damaged_rows_are_not_resumed(mpirun, folder):
    meanwhile_killed(mpirun, folder)
    partial = folder / ".y.h5.resume"
    content = bytearray(partial.read_bytes())
    content[2100] ^= 1  # in the first rows
    partial.write_bytes(content)
    assert resumed(mpirun, folder) == 0


def meanwhile_killed(mpirun, folder: Path) -> None:
    line = (*MODULE, *words(folder, "--batch-size", 256, "--resume"))
    assert mpirun(2, *line, timeout=60, env=injected(folder, KILL)).returncode
    assert (folder / ".y.h5.resume.mark").exists()


def resumed(mpirun, folder: Path) -> int:
    """Samples that a run goes on after, whose outputs are those of a run that begins anew."""
    report = folder / "r.json"
    assert not mpirun(
        2, "-m", "repurpose_hpc.infer", *words(folder, "--batch-size", 256, "--resume", "--report", report)
    ).returncode
    with h5py.File(folder / "y.h5") as file:
        outputs = file["y"][()]
    assert not mpirun(2, "-m", "repurpose_hpc.infer", *words(folder, "--batch-size", 256)).returncode
    with h5py.File(folder / "y.h5") as file:
        np.testing.assert_array_equal(outputs, file["y"][()])
    return json.loads(report.read_text())["resumed_samples"]


def test_two_runs_that_resume_one_file(folder):
    """The first is stopped half-way; the second refuses, and leaves the first one's file alone."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    slow = {**env, **injected(folder, "print('half', flush=True); time.sleep(8)")}
    line = [sys.executable, *MODULE, *map(str, words(folder, "--batch-size", 256, "--resume"))]
    with subprocess.Popen(line, env=slow, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "half\n"
        second = subprocess.run(line, env=env, capture_output=True, text=True)
        assert "found one at work on" in only_message(second)
        first.communicate(timeout=60)
    assert first.returncode == 0
    with h5py.File(folder / "y.h5") as file:
        assert file["y"].shape[0] == SAMPLES and np.isfinite(file["y"][()]).all()


@pytest.mark.parametrize("fault", ["missing", "truncated", "of another plan", "of another model"])
def test_damage_in_the_cache_is_made_anew(folder, fault):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "REPURPOSE_HPC_CACHE": str(folder / "cache")}

    def run() -> bool:
        line = ["-m", "repurpose_hpc", "infer", "model.npz", "--workers", "2", "--calibration", "x.npz"]
        line += ["--input", "x.npz", "--repeat", "0", "--report", "r.json"]
        done = subprocess.run([sys.executable, *line], env=env, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads((folder / "r.json").read_text())["cached"]

    assert [run(), run()] == [False, True]
    (entry,) = (
        path for path in (folder / "cache").iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    shard = entry / "worker-0001.h5"
    if fault == "missing":
        shard.unlink()
    elif fault == "truncated":
        os.truncate(shard, shard.stat().st_size // 2)
    elif fault == "of another plan":
        shutil.copy(entry / "worker-0000.h5", shard)
    else:
        shutil.rmtree(entry)
        small_plans.write_shards(entry, 2)
    assert [run(), run()] == [False, True] and (entry / PLAN_FILE).exists()


def test_a_cache_that_others_can_write_to(folder):
    cache = folder / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "REPURPOSE_HPC_CACHE": str(cache)}
    line = [
        "infer",
        "model.npz",
        "--workers",
        "2",
        "--calibration",
        "x.npz",
        "--input",
        "x.npz",
        "--repeat",
        "0",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "repurpose_hpc", *line], env=env, cwd=folder, capture_output=True, text=True
    )
    assert "in which nobody else can write" in only_message(done) and "chmod 700" in done.stderr


STANDS_STILL = Injection(
    FORWARD,
    f"import pathlib\n(pathlib.Path(FOLDER) / 'still').touch()\n{signalled(signal.SIGSTOP)}",
    call=20,
    process=1,
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_others_end_although_a_rank_stands_still(folder, number):
    line = environment.mpi_command(Path(sys.executable), 3)
    small_plans.write_shards(folder / "three", 3)
    more = ["--batch-size", "2", "--output", folder / "y.h5"]
    files = ["--shards", folder / "three", "--input", folder / "x.npy", "--repeat", "0"]
    env = {**environment.mpi_environment(), **variables([STANDS_STILL], folder)}
    job = subprocess.Popen([*line, *MODULE, *files, *more], env=env, start_new_session=True)
    try:
        wait_until((folder / "still").exists, 60)
        time.sleep(1)  # the others come to wait for it
        others = [int((folder / f"pid{rank}").read_text()) for rank in (0, 2)]
        for pid in others if number == signal.SIGINT else [job.pid]:
            os.kill(pid, number)
        wait_until(lambda: not any(map(alive, others)), 20)
        wait_until(lambda: job.poll() is not None, 20)
        assert job.returncode != 0
        assert not list(folder.glob("*y.h5*")) and not list(folder.glob(".*y.h5*"))
    finally:
        environment.stop(job)
        for rank in range(3):
            with suppress(ProcessLookupError, FileNotFoundError):
                os.kill(int((folder / f"pid{rank}").read_text()), signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)
