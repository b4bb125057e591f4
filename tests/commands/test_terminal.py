"""A reader that has gone, a full or closed terminal: no traceback, and work and report are there."""

import json
import os
import pty
import subprocess
import sys

import numpy as np
import pytest

from helpers import ROOT, small_plans
from repurpose_hpc.errors import PREFIX

FULL = "/dev/full"


@pytest.fixture
def folder(tmp_path):
    small_plans.write_shards(tmp_path / "shards", 2)
    small_plans.write_samples(tmp_path / "input.npz")
    small_plans.write_model(tmp_path / "model.npz", small_plans.random_network())
    return tmp_path


INSPECT = "inspect model.npz --report r.json"
INFER = "infer --shards shards --input input.npz --output y.h5 --repeat 2 --report r.json"
RESTRUCTURE = "restructure model.npz --workers 2 --calibration input.npz --out new --report r.json"


def shell(folder, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which CMD stands for the program; the status is that of the program."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "REPURPOSE_HPC_CACHE": str(folder / "cache")}
    line = line.replace("CMD", f"{sys.executable} -m repurpose_hpc")
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("words", [INSPECT, INFER, RESTRUCTURE])
def test_a_reader_that_has_gone(folder, words):
    done = shell(folder, f"CMD {words} 2> err | sleep 0; cat err")
    assert "Traceback" not in done.stdout and "Broken" not in done.stdout
    assert json.loads((folder / "r.json").read_text())
    assert shell(folder, f"CMD {words} 2> err | true").returncode == 0


@pytest.mark.parametrize("words", [INSPECT, INFER])
def test_progress_and_messages_that_nobody_reads(folder, words):
    done = shell(folder, f"CMD {words} 2> >(true)")
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize("words", [INSPECT, INFER, "--help", "inspect --help"])
@pytest.mark.skipif(not os.path.exists(FULL), reason="the system has no /dev/full")
def test_a_full_disk_under_standard_output(folder, words):
    done = shell(folder, f"CMD {words} > {FULL}")
    (message,) = done.stderr.splitlines()
    assert message.startswith(f"{PREFIX}standard output: ") and done.returncode == 1
    assert "r.json" not in words or json.loads((folder / "r.json").read_text())


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
@pytest.mark.parametrize("words", [INSPECT, INFER])
def test_closed_streams(folder, words, closed):
    """The number of a closed stream must not be given to a file: what is printed would spoil it."""
    done = shell(folder, f"CMD {words} {closed}")
    assert done.returncode == 0 and done.stderr == ""
    assert json.loads((folder / "r.json").read_text())


def test_an_error_with_closed_streams(folder):
    assert shell(folder, "CMD inspect nothing.npz 1>&- 2>&-").returncode == 1


def test_values_beyond_float32(folder):
    with np.load(folder / "input.npz") as arrays:
        x = arrays["x"].astype(np.float64)
    x[1] = 1e39
    np.save(folder / "x.npy", x)
    words = "infer --shards shards --input x.npy --repeat 0 --output y.h5"
    done = shell(folder, f"CMD {words}")
    assert done.returncode == 1
    assert "1e+39 of sample 1, column" in done.stderr and "try --dtype float64" in done.stderr
    assert shell(folder, f"CMD {words} --dtype float64").returncode == 0


def on_a_terminal(folder, words: str) -> str:
    """All that a command prints where standard output and standard error are the same terminal."""
    terminal, end = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "repurpose_hpc", *words.split()]
    with subprocess.Popen(command, cwd=folder, env=env, stdin=end, stdout=end, stderr=end):
        os.close(end)
        printed = b""
        try:
            while block := os.read(terminal, 4096):
                printed += block
        except OSError:  # the command has ended
            pass
    os.close(terminal)
    return printed.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(("words", "first"), [(RESTRUCTURE, "held out"), (f"{RESTRUCTURE} --json", "{")])
def test_a_summary_begins_on_a_line_of_its_own(folder, words, first):
    """The last line of progress waits for another one to take its place."""
    printed = on_a_terminal(folder, words)
    assert " ...\n" + first in printed, printed
    assert "\x1b[K" in printed
