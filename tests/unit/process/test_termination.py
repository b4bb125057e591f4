"""SIGTERM ends a process even where what it raises gets lost, and removes what is unfinished."""

import signal
import subprocess
import sys

import pytest

from helpers import ROOT
from repurpose_hpc.process.termination import TERMINATED, raising_at_sigterm

# Swallows the exception so many times, as callbacks of libraries do.
SWALLOWING = """
import pathlib, sys, time
from repurpose_hpc.process import termination
from repurpose_hpc.process.termination import Terminated, raising_at_sigterm

termination.PATIENCE_SECONDS = 0.5
times, file = int(sys.argv[1]), pathlib.Path(sys.argv[2])
file.touch()
try:
    with raising_at_sigterm(file.unlink):
        while True:
            try:
                print("ready", flush=True)
                time.sleep(60)
            except Terminated:
                if not times:
                    raise
                times -= 1
except Terminated:
    sys.exit(termination.TERMINATED)
"""


@pytest.mark.parametrize(("times", "status"), [(0, TERMINATED), (1, TERMINATED), (100, -signal.SIGKILL)])
def test_sigterm_that_gets_lost_is_repeated(tmp_path, times, status):
    file = tmp_path / "unfinished"
    line = [sys.executable, "-c", SWALLOWING, str(times), str(file)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(timeout=20) == status
    assert file.exists() == (status == TERMINATED)  # there it is the caller who removes it


def test_everything_is_as_before_afterwards():
    handler, wakeup = signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    with raising_at_sigterm(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not handler
    assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.set_wakeup_fd(wakeup) == wakeup
