"""Two runs of one command at once, with the same results and the same cache."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py

from faults.commands import COMMANDS, OUT
from faults.job import WITHIN, Outcome, Run, command
from faults.signals import fresh
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
    result: Callable[[Path], object]

    @property
    def name(self) -> str:
        """Unique."""
        return f"both/{self.command}/{self.order}"


def _outputs(out: Path) -> object:
    with h5py.File(out / "y.h5") as file:
        return file["y"][()].tobytes()


def _shards(out: Path) -> object:
    return [path.read_bytes() for path in sorted((out / "new").iterdir())]


def _study(out: Path) -> object:
    with open(out / "study" / "study.csv", newline="") as file:
        rows = csv.DictReader(file)
        return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def _points(out: Path) -> object:
    with open(out / "scaling" / "scaling.csv", newline="") as file:
        return [[row[name] for name in ("ranks", "form", "batch", "values")] for row in csv.DictReader(file)]


def _exists(name: str) -> Callable[[Path], object]:
    return lambda out: (out / name).stat().st_size > 0


def cases() -> Iterator[Case]:
    """All of them."""
    infer = tuple(COMMANDS["infer"].words(RANKS))
    model = ("infer", "model.npz", "--calibration", "samples.npz", "--input", "x.npy", "--repeat", 0)
    rows = (
        ("infer, one --output", "infer", infer, _outputs),
        ("infer --resume, one --output", "infer", (*infer, "--resume"), _outputs),
        (
            "infer, one entry of the cache",
            "infer",
            (*model, "--workers", RANKS, "--output", "out/y.h5"),
            _outputs,
        ),
        *(
            (f"{name}, one --out", name, tuple(COMMANDS[name].words(RANKS)), result)
            for name, result in (
                ("restructure", _shards),
                ("study", _study),
                ("scaling", _points),
                ("probe", _exists("machine.json")),
            )
        ),
        *(
            (f"{name}, one --report", name, tuple(COMMANDS[name].words(RANKS)), _exists("r.json"))
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
    expected = case.result(work / OUT)
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
    same = any(one.status == 0 for one in outcomes) and case.result(work / OUT) == expected
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
