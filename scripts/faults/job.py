"""A real command with a fault in it, watched from outside until nothing of it is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import environment

from helpers.injection import REACHED, Injection, variables

PREFIX = "repurpose-hpc: error: "
WITHIN = 20.0
"""Seconds from the fault until nothing may be left."""
_MARK, _LONGEST_RUN, _LONGEST_MESSAGE = "FAULTS_RUN", 90.0, 160
# For processes that have been told to end.
_LINGER = 3.0
# Of launchers, when a rank has ended by a signal or with a status.
_LAUNCHER = re.compile(r"BAD TERMINATION|prterun|mpirun (noticed|has exited)|YOUR APPLICATION TERMINATED")


@dataclass(frozen=True)
class Outcome:
    """What a run with a fault came to.

    Attributes:
        reached: whether the fault has happened.
        seconds: from the fault, or from the start if there was none, to the end of the command and of all
            processes that it had started but for those ``left``.
        status: of the command; negative: the signal that ended it.
        messages: lines of ours on stderr.
        launcher: whether the launcher reported an end by a signal or a status.
        traceback: whether a traceback was printed.
        text: the first of our messages.
        left: processes that were still there some seconds after the end.
        temporary: files with temporary names that were.
    """

    reached: bool
    seconds: float
    status: int
    messages: int
    launcher: bool
    traceback: bool
    text: str
    left: int
    temporary: int


def command(words: Sequence[object], ranks: int = 0) -> list[str]:
    """A command line of the product; 0 ranks: without a launcher."""
    python = Path(sys.executable)
    launcher = environment.mpi_command(python, ranks) if ranks else [str(python)]
    return [*launcher, "-m", "repurpose_hpc", *map(str, words)]


def usual_variables(folder: Path) -> dict[str, str]:
    """The environment of all commands: a cache of their own, one thread, ranks that leave their cores."""
    return {
        environment.HEAVY_YIELD: "1",
        **environment.mpi_environment(),
        "PYTHONPATH": str(environment.ROOT),
        "OMP_NUM_THREADS": "1",
        "REPURPOSE_HPC_CACHE": str(folder / "cache"),
    }


class Run:
    """A command that has been started, with all that it starts itself.

    Args:
        line: its words.
        folder: it runs there; what it prints, and notes of injections, are kept in ``notes`` below.
        injections: into its processes.
        more: of its environment.
    """

    def __init__(
        self,
        line: Sequence[object],
        folder: Path,
        injections: Sequence[Injection] = (),
        more: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.notes = folder, folder / "notes" / uuid.uuid4().hex[:8]
        self.notes.mkdir(parents=True)
        self.mark, self.began = f"{_MARK}={uuid.uuid4().hex}", time.time()
        name, value = self.mark.split("=")
        injected = variables(injections, self.notes) if injections else {}
        env = {**usual_variables(folder), **injected, **(more or {}), name: value}
        with open(self.notes / "stdout", "wb") as out, open(self.notes / "stderr", "wb") as err:
            self.process = environment.start([*map(str, line)], env, folder, stdout=out, stderr=err)

    def pid(self, number: int) -> int:
        """The process with this number, see ``helpers.injection``."""
        return int((self.notes / f"pid{number}").read_text())

    def wait_for(self, condition: Callable[[], bool], seconds: float = _LONGEST_RUN) -> bool:
        """Wait until something is so, or the command has ended, or it takes too long."""
        end = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                return condition()
            time.sleep(0.01)
        return True

    def reached(self) -> bool:
        """Whether the fault has happened."""
        return (self.notes / REACHED).exists()

    @property
    def reached_at(self) -> float:
        """When the fault has happened the last time, as ``time.time`` says it."""
        return (self.notes / REACHED).stat().st_mtime

    def outcome(self, since: float | None = None) -> Outcome:
        """Wait for the end, then look at what there is; whatever is left is killed.

        Args:
            since: when the fault happened, as ``time.time`` says it; None: when its note was written.
        """
        if since is None:
            self.wait_for(self.reached)
        reached = self.reached() or since is not None
        since = since or (self.reached_at if reached else self.began)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=max(since + _LONGEST_RUN - time.time(), 1))
        status, left = self.process.poll(), self._left()
        seconds = time.time() - since - (_LINGER if left else 0)
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        lines = (self.notes / "stderr").read_text(errors="replace").splitlines()
        printed = [*lines, *(self.notes / "stdout").read_text(errors="replace").splitlines()]
        ours = [line.split(PREFIX, 1)[1] for line in lines if PREFIX in line]
        return Outcome(
            reached=reached,
            seconds=round(seconds, 2),
            status=-signal.SIGALRM if status is None else status,
            messages=len(ours),
            launcher=any(_LAUNCHER.search(line) for line in printed),
            traceback=any("Traceback (most recent" in line for line in lines),
            text=ours[0].replace(f"{self.folder}/", "")[:_LONGEST_MESSAGE] if ours else "",
            left=left,
            temporary=len(temporary_files(self.folder)),
        )

    def _left(self) -> int:
        """Processes that outlive the command by some seconds."""
        end = time.monotonic() + _LINGER
        while (processes := self.processes()) and time.monotonic() < end:
            time.sleep(0.05)
        return len(processes)

    def processes(self) -> list[int]:
        """Processes of this run, known by their environment; those that have ended do not count."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if self.mark.encode() in (place / "environ").read_bytes() and _state(place) != "Z":
                    found.append(int(place.name))
        return found


def _state(place: Path) -> str:
    return (place / "stat").read_text().rpartition(")")[2].split()[0]


def temporary_files(folder: Path) -> list[Path]:
    """Temporary files below a folder; what interrupted runs keep to go on with is none."""
    return [
        path
        for path in folder.rglob(".*")
        if ".resume" not in path.name and "notes" not in path.relative_to(folder).parts
    ]
