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
from repurpose_hpc.mpi.agreement import PREFIX
from repurpose_hpc.plan.files.store import PLAN_FILE

SAMPLES = 40_000

# Runs infer, which after some batches does what FAULT says to its files; rank 0 alone.
MEANWHILE = """
import os, shutil, sys, time
from pathlib import Path
from mpi4py import MPI
from repurpose_hpc.runtime.streams import outputs as streams
from repurpose_hpc.infer import main

append, calls = streams.OutputFile.append, []

def faulty(self, rows):
    append(self, rows)
    calls.append(rows)
    if len(calls) == 2:
        FAULT

streams.OutputFile.append = faulty
streams.ResumableOutputFile.MARK_SECONDS = 0
main()
"""


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
    """The message of a run during which ``fault`` happens, a statement."""
    script = folder / "meanwhile.py"
    script.write_text(MEANWHILE.replace("FAULT", fault.replace("FOLDER", f"Path({str(folder)!r})")))
    done = mpirun(2, script, *words(folder, "--batch-size", 256, *more), timeout=60)
    assert not (folder / "y.h5").exists()
    return only_message(done)


# Runs infer, whose files may have 256 KiB once MPI has its own; the outputs need more.
FULL = """
import resource
from mpi4py import MPI
from repurpose_hpc.infer import main

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
main()
"""


@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_a_disk_that_is_full(mpirun, folder, resume):
    done = mpirun(2, "-c", FULL, *words(folder, *resume))
    assert "y.h5: expected to be able to write there" in only_message(done)
    assert not list(folder.glob("*y.h5*")) and not list(folder.glob(".*y.h5*"))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("(FOLDER / 'x.npy').write_bytes(b'other')", "x ends before sample"),
        ("os.truncate(FOLDER / 'x.npy', 5000)", "x ends before sample"),
        ("os.utime(FOLDER / 'x.npy')", "found another one (modified, changed differ)"),
        ("(FOLDER / 'x.npy').unlink()", "found none: No such file"),
        ("shutil.copy(FOLDER / 'x.npy', FOLDER / 'z'); os.replace(FOLDER / 'z', FOLDER / 'x.npy')", "inode"),
    ],
)
def test_input_that_changes_underway(mpirun, folder, fault, expected):
    message = meanwhile(mpirun, folder, fault)
    assert "x.npy" in message and expected in message
    assert not list(folder.glob(".y.h5*"))


def test_an_output_directory_that_goes_away(mpirun, folder):
    (folder / "out").mkdir()
    fault = "shutil.rmtree(FOLDER / 'out')"
    message = meanwhile(mpirun, folder, fault, "--output", folder / "out" / "y.h5")
    assert "out/y.h5: expected to be able to write there" in message


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
    script = folder / "killed.py"
    script.write_text(MEANWHILE.replace("FAULT", f"os.kill(os.getpid(), {int(signal.SIGKILL)})"))
    assert mpirun(2, script, *words(folder, "--batch-size", 256, "--resume"), timeout=60).returncode
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
    script = folder / "slow.py"
    script.write_text(MEANWHILE.replace("FAULT", "(print('half', flush=True), time.sleep(8))"))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [*map(str, words(folder, "--batch-size", 256, "--resume"))]
    with subprocess.Popen(
        [sys.executable, script, *line], env=env, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None and first.stdout.readline() == "half\n"
        second = subprocess.run(
            [sys.executable, "-m", "repurpose_hpc.infer", *line], env=env, capture_output=True, text=True
        )
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


# Runs infer, of which rank 1 stands still after some forwards; every rank writes its number to a file.
STANDS_STILL = """
import os, signal, sys
from pathlib import Path
from mpi4py import MPI
from repurpose_hpc.infer import main
from repurpose_hpc.runtime.program import Program

forward, calls, rank = Program.forward, [], MPI.COMM_WORLD.rank
folder = Path(sys.argv.pop())
(folder / f"pid{rank}").write_text(str(os.getpid()))

def slow(self, X):
    calls.append(X)
    if rank == 1 and len(calls) == 20:
        (folder / "still").touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return forward(self, X)

Program.forward = slow
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_others_end_although_a_rank_stands_still(folder, number):
    script = folder / "still.py"
    script.write_text(STANDS_STILL)
    line = environment.mpi_command(Path(sys.executable), 3)
    small_plans.write_shards(folder / "three", 3)
    more = ["--batch-size", "2", "--output", folder / "y.h5"]
    files = ["--shards", folder / "three", "--input", folder / "x.npy", "--repeat", "0"]
    env = {**environment.mpi_environment(), "PYTHONPATH": str(ROOT)}
    job = subprocess.Popen([*line, script, *files, *more, folder], env=env, start_new_session=True)
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
