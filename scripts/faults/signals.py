"""Signals to one process of a command, wherever that is."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from faults.commands import COMMANDS, Command, fresh, results, undisturbed
from faults.job import WITHIN, Run, command
from helpers.injection import NOTE, Injection

STOPPED = "SIGSTOP, SIGKILL"
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", STOPPED)
_STANDS_STILL = 2.0


@dataclass(frozen=True)
class Case:
    """A signal to a process of a command.

    Attributes:
        command: of ``COMMANDS``.
        phase: where that is.
        ranks: of the job.
        signal: one of ``SIGNALS``.
    """

    command: str
    phase: str
    ranks: int
    signal: str

    @property
    def name(self) -> str:
        """Unique."""
        return f"{self.command}/{self.phase}/{self.ranks}/{self.signal}"

    @property
    def rank(self) -> int:
        """The rank that the signal is for: any, but always the same one."""
        return random.Random(self.name).randrange(self.ranks)


def cases() -> Iterator[Case]:
    """All of them, those of few ranks first."""
    rows = [
        Case(one.name, phase, ranks, signal)
        for one in COMMANDS.values()
        for ranks in one.ranks
        for phase in one.places
        for signal in SIGNALS
    ]
    return iter(sorted(rows, key=lambda case: (case.ranks, SIGNALS.index(case.signal))))


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """The row of a case."""
    one = COMMANDS[case.command]
    expected = undisturbed(case.command, case.ranks, folder)
    work = fresh(folder)
    line = command(one.words(case.ranks), case.ranks * one.launched)
    run = Run(line, work, [_injection(case, one)])
    since = None
    if case.signal == STOPPED and run.wait_for(run.reached):
        since = run.reached_at + _STANDS_STILL
    outcome = asdict(run.outcome(since))
    finals, whole = results(one, work, expected)
    row = {**asdict(case), "rank": case.rank, **outcome, "finals": finals, "whole": whole, "kept": 0}
    if outcome["temporary"]:
        row["kept"] = Run(line, work).outcome(since=time.time()).temporary
    return {**row, "wrong": wrong(row, one)}


def _injection(case: Case, one: Command) -> Injection:
    place = one.places[case.phase]
    victim, number = one.process(case.rank), case.signal.split(",")[0]
    later = f"sleep {_STANDS_STILL:g}; kill -KILL"
    code = (
        f"{NOTE}import os, signal\n"
        f"pid = int((folder / 'pid{victim}').read_text())\n"
        f"if {case.signal == STOPPED}:\n"
        f"    os.posix_spawnp('sh', ['sh', '-c', f'{later} {{pid}}'], os.environ)\n"
        f"os.kill(pid, signal.{number})\n"
    )
    process = one.process(0) if place.of_root else victim
    return Injection(place.function, code, place.call, process=process)


def wrong(row: dict[str, Any], one: Command) -> list[str]:
    """What is not as it should be."""
    tells = row["messages"] or row["launcher"]
    # SIGTERM ends a command in silence, and nobody is there to say that a process alone was killed.
    is_silent = row["signal"] == "SIGTERM" or (not one.launched and row["signal"] != "SIGINT")
    # A result that was being written when another rank got the signal may have come to its end.
    unexpected = [] if one.stays or row["phase"] == "writing" else row["finals"]
    found = {
        "the fault did not happen": not row["reached"],
        f"took {row['seconds']} s": row["seconds"] > WITHIN,
        "status 0": row["status"] == 0,
        f"{row['messages']} messages": row["messages"] > 1,
        "nothing said": not tells and not is_silent,
        "a traceback": row["traceback"],
        f"there: {', '.join(unexpected)}": bool(unexpected),
        "a part of a result": not row["whole"],
        f"{row['left']} processes left": row["left"] > 0,
        f"{row['kept']} temporary files after the next run": row["kept"] > 0,
    }
    return [text for text, so in found.items() if so]
