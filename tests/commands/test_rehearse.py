"""``scripts/rehearse.sh``: a network of hosts on one machine, of which nothing stays."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import environment
import pytest

from helpers import ROOT

SCRIPT = ROOT / "scripts/rehearse.sh"


def obstacle() -> str:
    """Why no network can be rehearsed here; empty if it can."""
    if os.geteuid() != 0:
        return "needs root"
    for tool in ("ip", "tc", "setpriv", "unshare"):
        if shutil.which(tool) is None:
            return f"needs {tool}"
    mpirun = environment.find_mpirun(Path(sys.prefix))
    if (
        mpirun is None
        or "HYDRA" not in subprocess.run([mpirun, "--version"], capture_output=True, text=True).stdout
    ):
        return "needs the mpirun of MPICH"
    made = run("2", "100mbit", "true")
    return "" if made.returncode == 0 else f"no network can be made here: {made.stderr}"


def run(*arguments: object, env: dict | None = None) -> subprocess.CompletedProcess[str]:
    return environment.run(
        [str(SCRIPT), *map(str, arguments)],
        {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        timeout=300,
    )


def interfaces() -> set[str]:
    return set(os.listdir("/sys/class/net")) | set(os.listdir("/run/netns"))


@pytest.fixture(scope="module", autouse=True)
def rehearsals():
    if reason := obstacle():
        pytest.skip(reason)


def test_what_two_hosts_send_is_what_the_program_says(tmp_path):
    before = interfaces()
    scaling = ["-m", "repurpose_hpc", "scaling", "strong", "--ranks", 2, "--batches", 256, "--repeat", 5]
    network = ["--width", 256, "--layers", 3, "--comm-budget", 0.5, "--out", tmp_path / "out"]
    done = run(2, "100mbit", sys.executable, *scaling, *network, env={"REPURPOSE_HPC_CACHE": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "host0: " in done.stderr and "host1: " in done.stderr
    for row in json.loads((tmp_path / "out/scaling.json").read_text())["points"]:
        assert row["hosts"] == 2 and row["relative_difference"] < 1e-5
        # Headers: of TCP, IP and Ethernet on every frame, of MPI on every message.
        assert row["bytes"] < row["wire_bytes"] < 1.1 * row["bytes"] + 500 * row["messages"]
        # Nothing is faster than the cables: each host sends half of it, less what may pass at once.
        assert row["seconds_p10"] > 0.9 * row["bytes"] / 2 * 8 / 100e6
    assert interfaces() == before


def test_its_status_is_that_of_the_command():
    assert run(2, "1gbit", "sh", "-c", "exit 7").returncode == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_survives_its_violent_end(tmp_path, number):
    before = interfaces()
    mark = tmp_path / "started"
    command = ["sh", "-c", f"echo > {mark}; exec sleep 98765"]
    process = subprocess.Popen(
        [str(SCRIPT), "2", "100mbit", *command],
        start_new_session=True,
        # Whatever started the tests may ignore it, and a shell cannot trap what was ignored from the start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_for(mark.exists)
        assert sleepers()
    finally:
        process.send_signal(number)
        try:
            assert process.wait(timeout=20) != 0
        finally:
            process.kill()
    wait_for(lambda: not sleepers())
    assert interfaces() == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "expected P RATE COMMAND"),
        (("two", "1gbit", "true"), "expected P RATE COMMAND"),
        ((2, "fast", "true"), "expected a RATE such as 100mbit or 1gbit, got fast"),
    ],
)
def test_wrong_command_lines_are_refused(arguments, expected):
    done = run(*arguments)
    assert done.returncode == 2 and expected in done.stderr


def sleepers() -> list[str]:
    """Processes that the test above has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == b"sleep\x0098765\x00":
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def wait_for(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
