"""Two runs of one command at once, with the same results and the same cache."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from faults.commands import COMMANDS, OUT, fresh
from faults.job import WITHIN, Outcome, Run, command
from faults.results import content
from helpers.injection import GO, WAIT, Injection

RANKS = 2
_IN_STEP, _INSIDE = "started together", "the second runs while the first is about to write"


@dataclass(frozen=True)
class Case:
    """A command that runs twice.

    Attributes:
        command: what the table calls it.
        base: of ``COMMANDS``.
        words: of the command line.
        order: how the two meet.
        result: what is compared with that of a run alone: of the folder of results.
    """

    command: str
    base: str
    words: tuple[object, ...]
    order: str
    result: str

    @property
    def name(self) -> str:
        """Unique."""
        return f"both/{self.command}/{self.order}"


def cases() -> Iterator[Case]:
    """All of them."""
    infer = tuple(COMMANDS["infer"].words(RANKS))
    model = ("infer", "model.npz", "--calibration", "samples.npz", "--input", "x.npy", "--repeat", 0)
    rows = (
        ("infer, one --output", "infer", infer, "y.h5"),
        ("infer --resume, one --output", "infer", (*infer, "--resume"), "y.h5"),
        (
            "infer, one entry of the cache",
            "infer",
            (*model, "--workers", RANKS, "--output", "out/y.h5"),
            "y.h5",
        ),
        *(
            (f"{name}, one --out", name, tuple(COMMANDS[name].words(RANKS)), result)
            for name, result in (
                ("restructure", "new"),
                ("study", "study/study.csv"),
                ("scaling", "scaling/scaling.csv"),
                ("probe", "machine.json"),
            )
        ),
        *(
            (f"{name}, one --report", name, tuple(COMMANDS[name].words(RANKS)), "r.json")
            for name in ("doctor", "bench")
        ),
    )
    for order in (_IN_STEP, _INSIDE):
        for name, base, words, result in rows:
            yield Case(name, base, words, order, result)


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """The row of a case."""
    one = COMMANDS[case.base]
    line = command(case.words, RANKS * one.launched)
    work = fresh(folder)
    alone = Run(line, work).outcome(since=time.time())
    expected = content(work / OUT / case.result)
    work = fresh(folder)
    place = one.places["writing"]
    injections = [Injection(place.function, WAIT, place.call, process=one.process(0))]
    first = Run(line, work, injections if case.order == _INSIDE else ())
    if case.order == _INSIDE:
        first.wait_for(first.reached)
    second = Run(line, work)
    if case.order == _INSIDE:
        second.process.wait()
    began = time.time()
    (first.notes / GO).touch()
    outcomes = [run.outcome(since=began) for run in (second, first)]
    rows = [asdict(outcome) for outcome in outcomes]
    row = {
        "command": case.command,
        "order": case.order,
        "runs": rows,
        "text": outcomes[0].text or outcomes[1].text,
    }
    row |= {"seconds": max(one.seconds for one in outcomes), "status": [one.status for one in outcomes]}
    row |= {"messages": [one.messages for one in outcomes]}
    same = any(one.status == 0 for one in outcomes) and content(work / OUT / case.result) == expected
    return {**row, "wrong": wrong(outcomes, alone, same)}


def wrong(outcomes: list[Outcome], alone: Outcome, same: bool) -> list[str]:
    """What is not as it should be: one run has to come to its end, and others to say why not."""
    found = {
        f"status {alone.status} alone": alone.status != 0,
        "neither came to its end": all(one.status for one in outcomes),
        "other results than alone": not same,
        "not one message": any(one.messages != (one.status != 0) for one in outcomes),
        "a traceback": any(one.traceback for one in outcomes),
        f"took {outcomes[0].seconds} s": outcomes[0].seconds > WITHIN + alone.seconds,
        "processes left": any(one.left for one in outcomes),
        "temporary files": outcomes[-1].temporary > 0,
    }
    return [text for text, so in found.items() if so]
