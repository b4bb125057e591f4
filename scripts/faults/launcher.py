"""The process that started the ranks is killed: nothing of the job is left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from faults.commands import COMMANDS, RANKS, fresh
from faults.job import WITHIN, Run, command
from helpers.injection import ALONE, FORWARD, NOTE, Injection

_STANDS_STILL = 300


@dataclass(frozen=True)
class Case:
    """A job whose launcher is killed while rank 1 stands still, so that it would not end by itself.

    Attributes:
        command: of ``COMMANDS``.
        ranks: of the job.
        signal: for the launcher: mpirun, or the command that starts it.
    """

    command: str
    ranks: int
    signal: str

    @property
    def name(self) -> str:
        """Unique."""
        return f"launcher/{self.command}/{self.ranks}/{self.signal}"


def cases() -> Iterator[Case]:
    """All of them."""
    for ranks in RANKS:
        for name in ("infer", "scaling, a rank of its"):
            for number in ("SIGKILL", "SIGTERM", "SIGINT"):
                yield Case(name, ranks, number)


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """The row of a case."""
    one = COMMANDS[case.command]
    work = fresh(folder)
    # In pieces: a signal then interrupts Python, not only a call of the system.
    stands = f"{NOTE}for _ in range({10 * _STANDS_STILL}):\n    time.sleep(0.1)\n"
    run = Run(
        command(one.words(case.ranks), case.ranks * one.launched),
        work,
        [Injection(FORWARD, stands, call=3, process=1)],
    )
    run.wait_for(run.reached)
    since = time.time()
    os.kill(run.process.pid if one.launched else run.pid(ALONE), getattr(signal, case.signal))
    outcome = run.outcome(since)
    row = {**asdict(case), **asdict(outcome)}
    found = {
        "the fault did not happen": not run.reached(),
        f"took {outcome.seconds} s": outcome.seconds > WITHIN,
        "status 0": outcome.status == 0,
        f"{outcome.messages} messages": outcome.messages > 1,
        f"{outcome.left} processes left": outcome.left > 0,
    }
    return {**row, "wrong": [text for text, so in found.items() if so]}
