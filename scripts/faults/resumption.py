"""Runs that are killed again and again, and go on: the result is that of a run that nobody killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from faults.job import Run, command
from faults.results import content
from helpers import small_plans

KILLS = 50
SAMPLES, RANKS = 20_000, 2
_WIDTHS = (48, 96, 96, 96, 96, 10)
# Of the time of a whole run, when the earliest kill comes.
_EARLIEST = 0.3
_LONGEST = 300.0


@dataclass(frozen=True)
class Case:
    """A command that goes on where an earlier run was killed.

    Attributes:
        command: what the table calls it.
        words: of the command.
        ranks: of the job; 0: without a launcher.
        result: what is compared: of the folder of results.
    """

    command: str
    words: tuple[object, ...]
    ranks: int
    result: str

    @property
    def name(self) -> str:
        """Unique."""
        return f"resumption/{self.command}"


_DATA = ("model.npz", "--calibration", "samples.npz")
_CUT = ("restructure", *_DATA, "--workers", 4, "--out", "out/new")
_ROWS = (
    Case(
        "infer --resume",
        ("infer", "--shards", "shards", "--input", "x.npy", "--output", "out/y.h5")
        + ("--batch-size", 16, "--repeat", 0, "--resume"),
        RANKS,
        "y.h5",
    ),
    Case("restructure", (*_CUT, "--comm-budget", 0.1), 0, "new"),
    Case("restructure under mpirun", (*_CUT, "--comm-budget", 0.1), RANKS, "new"),
    Case("restructure with a promise", (*_CUT, "--max-output-error", 0.03), 0, "new"),
    Case(
        "study",
        ("study", *_DATA, "--test", "samples.npz", "--out", "out/study", "--workers", "2,4")
        + ("--methods", "data,frobenius", "--budgets", "0.2,0.05"),
        0,
        "study/study.csv",
    ),
)


def cases() -> Iterator[Case]:
    """All of them."""
    return iter(_ROWS)


def measure(case: Case, folder: Path, kills: int = KILLS, seed: int = 0) -> dict[str, Any]:
    """Kill a command so often, at seeded times, and compare every result that it comes to.

    Args:
        case: the command.
        folder: to work in.
        kills: that hit a running command.
        seed: of the times, and of who is killed.
    """
    work = folder / "resumption"
    if not (work / "model.npz").exists():
        _prepare(work)
    expected, usual = _uninterrupted(case, work)
    draw = random.Random(f"{case.command} {seed}")
    hits = finished = different = 0
    failures: list[str] = []
    while hits < kills or finished == 0:
        run = Run(command(case.words, case.ranks), work)
        if hits < kills and _killed(run, usual * draw.uniform(_EARLIEST, 1.0), draw):
            hits += 1
            continue
        outcome = run.outcome(since=time.time())
        if outcome.status:
            failures.append(f"status {outcome.status}: {outcome.text}")
            break
        finished += 1
        different += content(work / "out" / case.result) != expected
        _clear(work)
    row = {"command": case.command, "kills": hits, "finished": finished, "different": different}
    found = {f"{different} results differ": different > 0, **dict.fromkeys(failures, True)}
    return {**row, "seconds_whole": round(usual, 1), "wrong": [text for text, so in found.items() if so]}


def _uninterrupted(case: Case, work: Path) -> tuple[list[Any], float]:
    """The result of a run that nobody kills, and how long it takes."""
    _clear(work)
    Run(command(case.words, case.ranks), work).process.wait()  # compiles kernels
    _clear(work)
    began = time.monotonic()
    outcome = Run(command(case.words, case.ranks), work).outcome(since=time.time())
    seconds = time.monotonic() - began
    if outcome.status:
        raise SystemExit(
            f"{case.command}: expected status 0 without a kill, found {outcome.status}: {outcome.text}"
        )
    expected = content(work / "out" / case.result)
    _clear(work)
    return expected, seconds


def _killed(run: Run, seconds: float, draw: random.Random) -> bool:
    """Kill one process of a run or all of them after so long; False if it has ended before."""
    with suppress(Exception):
        run.process.wait(timeout=seconds)
    everybody = draw.random() < 0.5
    processes = sorted(run.processes())
    if run.process.poll() is not None or not processes:
        return False
    for pid in processes if everybody else [draw.choice(processes)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    run.process.wait(timeout=_LONGEST)
    while run.processes():  # ranks whose launcher was killed
        time.sleep(0.05)
    return run.process.returncode != 0


def _prepare(work: Path) -> None:
    (work / "out").mkdir(parents=True, exist_ok=True)
    small_plans.write_shards(work / "shards", RANKS)
    x = small_plans.write_samples(work / "small.npz")
    np.save(work / "x.npy", np.resize(x, (SAMPLES, x.shape[1])) + np.arange(SAMPLES)[:, None] / SAMPLES)
    small_plans.write_samples(work / "samples.npz", samples=500, width=_WIDTHS[0])
    small_plans.write_model(work / "model.npz", small_plans.random_network(widths=_WIDTHS))


def _clear(work: Path) -> None:
    for name in ("out", "notes", "cache"):
        shutil.rmtree(work / name, ignore_errors=True)
    (work / "out").mkdir()
