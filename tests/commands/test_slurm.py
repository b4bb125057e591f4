"""The job scripts in slurm/, submitted to a SLURM of our own (scripts/slurm_sandbox.sh)."""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers import ROOT, small_plans
from repurpose_hpc.errors import PREFIX
from repurpose_hpc.mpi.launch import pmi
from repurpose_hpc.plan.files.store import open_plan

SANDBOX = ROOT / "scripts/slurm_sandbox.sh"
SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
PROGRAMS = ("sbatch", "slurmctld", "slurmd", "munged")
MISSING = [name for name in PROGRAMS if shutil.which(name, path=SBIN) is None]
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"}
SECONDS = 150

pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"no SLURM: {', '.join(MISSING)} missing (Debian: apt-get install slurm-wlm munge)"
)

# Imported by every Python below it: writing a batch, which is a block of its own, takes its time.
SLOW = """
import time
from repurpose_hpc.runtime.streams import blocks, outputs as streams

blocks.MOST_BATCHES = 1
append = streams.OutputFile.append

def slow(self, rows):
    append(self, rows)
    time.sleep(0.3)

streams.OutputFile.append = slow
"""


class Slurm:
    """What the tests ask of SLURM.

    Args:
        env: of all commands.
    """

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def call(self, *command: object) -> str:
        """Standard output of a command that works."""
        words = list(map(str, command))
        done = subprocess.run(words, env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, log: Path, script: str, *args: object, options: tuple = (), **env: object) -> str:
        """Submit a script of slurm/, its output to ``log``: the job's number."""
        settings = [f"{name}={value}" for name, value in env.items()]
        command = ("env", *settings, "sbatch", "--parsable", "--output", log, *options)
        return self.call(*command, f"slurm/{script}.sbatch", *args)

    def state(self, job: str) -> str:
        """Of a job, or of the worst task of an array."""
        tasks = self.call("scontrol", "show", "job", job, "--oneliner").splitlines()
        states = [task.partition("JobState=")[2].split()[0] for task in tasks]
        return next((state for state in states if state not in FINAL), None) or max(
            states, key=lambda state: state != "COMPLETED"
        )

    def wait(self, job: str) -> str:
        """The state in which a job has ended."""
        deadline = time.monotonic() + SECONDS
        while (state := self.state(job)) not in FINAL:
            assert time.monotonic() < deadline, f"job {job} is {state} after {SECONDS} s"
            time.sleep(0.2)
        return state

    def run(self, log: Path, script: str, *args: object, **settings: object) -> str:
        """Submit a job and wait until it is completed: its output."""
        state = self.wait(self.submit(log, script, *args, **settings))
        text = "\n".join(each.read_text() for each in log.parent.glob(log.name.replace("%a", "*")))
        assert state == "COMPLETED", f"{state}\n{text}"
        return text


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    """Two nodes of four CPUs."""
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as directory:  # sockets need short names
        sandbox = Path(directory)
        started = subprocess.run([SANDBOX, "start", sandbox], capture_output=True, text=True, timeout=60)
        logs = "".join(f"\n{log.name}\n{log.read_text()[-2000:]}" for log in sandbox.glob("*.log"))
        assert started.returncode == 0, started.stderr + logs
        try:
            yield Slurm(
                {
                    **os.environ,
                    "SLURM_CONF": str(sandbox / "slurm.conf"),
                    "PYTHON": sys.executable,
                    "PMI": _pmi(),
                    # The user's cache, which the other tests have filled.
                    "NUMBA_CACHE_DIR": "",
                }
            )
        finally:
            subprocess.run([SANDBOX, "stop", sandbox], check=True, timeout=60)


def _pmi() -> str:
    program = "from mpi4py import MPI; print(MPI.Get_library_version())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    if pmi(done.stdout) != "pmi2":
        pytest.skip(f"{done.stdout.splitlines()[0]} needs a SLURM with PMIx, which Debian's is not by itself")
    return "pmi2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, shards of it for two workers, and samples."""
    small_plans.write_model(tmp_path / "model.npz", small_plans.random_network())
    small_plans.write_shards(tmp_path / "shards", 2)
    small_plans.write_samples(tmp_path / "x.npz", samples=100)
    return tmp_path


def outputs(folder: Path) -> np.ndarray:
    with h5py.File(folder / "y.h5") as file:
        return file["y"][()]


def test_restructured_and_run_on_two_nodes(slurm, folder):
    log, x, report = folder / "log", folder / "x.npz", folder / "report.json"
    given = (folder / "model.npz", "--workers", 4, "--calibration", x, "--out", folder / "made")
    text = slurm.run(log, "restructure", *given, "--comm-budget", 0.5, options=("--nodes=2",))
    assert "workers 4," in " ".join(text.split())
    given = ("--input", x, "--output", folder / "y.h5", "--verify", "--report", report)
    job = slurm.submit(log, "infer", *given, STAGE=folder / "made", options=("--nodes=2",))
    assert slurm.wait(job) == "COMPLETED", log.read_text()
    result = json.loads(report.read_text())
    assert result["ranks"] == 4 and result["relative_difference"] <= 1e-5
    assert f"repurpose-hpc-{job}/shards" in result["shards"]
    assert not Path(result["shards"]).parent.exists(), "not tidied up"
    assert outputs(folder).shape == (100, 5)


def test_tuned_on_two_nodes(slurm, folder):
    x, model, made, tuned = (folder / name for name in ("x.npz", "model.npz", "made", "tuned"))
    given = (model, "--workers", 4, "--calibration", x, "--out", made, "--comm-budget", 0.5)
    slurm.run(folder / "log", "restructure", *given, options=("--nodes=2",))
    given = ("--shards", made, "--data", x, "--distill", model, "--epochs", 2, "--out", tuned)
    text = slurm.run(folder / "tuning", "finetune", *given, options=("--nodes=2",))
    assert "epoch 2: loss" in text and "4, 4 workers" in text
    assert open_plan(tuned).plan.identity() == open_plan(made).plan.identity()


def test_a_job_that_was_ended_goes_on(slurm, folder):
    (folder / "slow").mkdir()
    (folder / "slow/sitecustomize.py").write_text(SLOW)
    log, report, partial = folder / "log", folder / "report.json", folder / ".y.h5.resume"
    given = ("--shards", folder / "shards", "--input", folder / "x.npz", "--output", folder / "y.h5")
    given = (*given, "--batch-size", 4, "--repeat", 0, "--verify", "--report", report)
    job = slurm.submit(log, "infer", *given, PYTHONPATH=folder / "slow", options=("--ntasks=2",))
    while not partial.exists():
        assert slurm.state(job) not in FINAL, log.read_text()
        time.sleep(0.1)
    time.sleep(3)
    slurm.call("scancel", job)  # signals as at the time limit
    assert slurm.wait(job) == "CANCELLED"
    time.sleep(1)
    left = {path.name for path in folder.iterdir() if "y.h5" in path.name}
    assert left == {partial.name, f"{partial.name}.mark"} and not report.exists()

    slurm.run(log, "infer", *given, options=("--ntasks=2",))
    result = json.loads(report.read_text())
    assert 0 < result["resumed_samples"] < 100 and result["samples"] == 100
    assert not partial.exists() and np.all(outputs(folder).any(axis=1))


def test_a_study_is_shared_out_and_brought_together(slurm, folder):
    small_plans.write_samples(folder / "test.npz", samples=50, seed=2)
    data = ("--calibration", folder / "x.npz", "--test", folder / "test.npz", "--out", folder / "study")
    given = (
        folder / "model.npz",
        *data,
        "--workers",
        "2,3",
        "--methods",
        "magnitude",
        "--budgets",
        "0.5,0.2",
    )
    slurm.run(folder / "array-%a", "study", *given, options=("--array=5-6",))
    parts = [_rows(folder / f"study/study-{part}-of-2.csv") for part in (1, 2)]
    assert all(2 <= len(rows) <= 4 for rows in parts)  # the later one may know what the other has found
    text = slurm.run(folder / "log", "study", *given, options=("--array=0",))
    assert "4 points, 4 of them already in" in text
    rows = _rows(folder / "study/study.csv")
    assert len(rows) == 4 and all(row in rows for part in parts for row in part)
    assert (folder / "study/study.png").exists()


def _rows(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", ["strong", "weak"])
def test_scaling(slurm, folder, kind):
    given = ("--width", 32, "--layers", 2, "--batches", 4, "--repeat", 5)
    out = folder / "scaling"
    slurm.run(folder / "log", f"{kind}_scaling", *given, RANKS="1,2", OUT=out, options=("--ntasks=2",))
    rows = _rows(out / "scaling.csv")
    assert {row["ranks"] for row in rows} == {"1", "2"} and not any(row["error"] for row in rows)
    assert (out / "scaling.png").exists()


def test_the_wrong_pmi_is_refused_once(slurm, folder):
    log = folder / "log"
    given = ("--shards", folder / "shards", "--input", folder / "x.npz", "--output", folder / "y.h5")
    job = slurm.submit(log, "infer", *given, PMI="none", options=("--ntasks=2",))
    assert slurm.wait(job) == "FAILED"
    messages = [line for line in log.read_text().splitlines() if PREFIX in line]
    assert len(messages) == 1
    assert "started 2 processes, but MPI sees 1 rank" in messages[0] and "srun --mpi=pmi2" in messages[0]
    assert not list(folder.glob("*y.h5*"))


def test_doctor_under_srun(slurm, folder):
    report = folder / "report.json"
    command = ("srun", "--ntasks=3", "--nodes=2", "--mpi=pmi2", "--cpus-per-task=1", sys.executable, "-m")
    command = ("env", "MPIR_CVAR_CH4_NETMOD=ofi", *command, "repurpose_hpc", "doctor")
    slurm.call(*command, "--report", report)
    result = json.loads(report.read_text())
    assert result["ranks"] == result["launched"] == 3 and not result["errors"]
