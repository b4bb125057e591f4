"""The commands that faults are tried on: their words, their results, and where they are at which time."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from faults.job import Run, command
from faults.results import content, is_whole
from helpers import small_plans
from helpers.injection import ALONE, FORWARD

SAMPLES, BATCH = 20_000, 64
OUT = "out"
"""Where all results go; of a command's folder."""
RANKS = (2, 4, 8)

# Places that most commands have in common: before MPI starts, and the first import after that.
BEFORE_MPI, IMPORT = "repurpose_hpc.process.threads", "numpy"
IN_PLACE = "repurpose_hpc.io.atomic:put_in_place"


@dataclass(frozen=True)
class Place:
    """Where a process is.

    Attributes:
        function: see ``helpers.injection``.
        call: of the function.
        of_root: whether only rank 0 comes there; a fault of another rank happens at the same time.
    """

    function: str
    call: int = 1
    of_root: bool = False


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        name: what the table calls it.
        words: for so many ranks.
        places: by the phases that it has.
        final: files or directories that are its result, in ``OUT``.
        launched: whether it runs under a launcher, and not alone.
        starts_ranks: whether faults are those of ranks that it starts itself.
        stays: whether a result is there after a failure too: a table that grows row by row, or what is wrong.
    """

    name: str
    words: Callable[[int], list[object]]
    places: Mapping[str, Place]
    final: tuple[str, ...]
    launched: bool = True
    starts_ranks: bool = False
    stays: bool = False
    ranks: tuple[int, ...] = field(default=RANKS)

    def process(self, rank: int) -> int:
        """Number of the process in which a fault of a rank happens."""
        return rank if self.launched or self.starts_ranks else ALONE


def prepare(folder: Path) -> None:
    """Make a model, samples and shards, which all commands share."""
    folder.mkdir(parents=True, exist_ok=True)
    small_plans.write_model(folder / "model.npz", small_plans.random_network())
    small_plans.write_samples(folder / "samples.npz", samples=300)
    with np.load(folder / "samples.npz") as arrays:
        np.save(folder / "x.npy", np.resize(arrays["x"], (SAMPLES, *arrays["x"].shape[1:])))
    for ranks in RANKS:
        small_plans.write_shards(folder / f"shards{ranks}", ranks)


def _infer(ranks: int) -> list[object]:
    files = ["--shards", f"shards{ranks}", "--input", "x.npy", "--output", f"{OUT}/y.h5"]
    return ["infer", *files, "--batch-size", BATCH, "--repeat", 0, "--exchange", "alltoallv"]


def _restructure(ranks: int) -> list[object]:
    files = ["model.npz", "--calibration", "samples.npz", "--out", f"{OUT}/new", "--report", f"{OUT}/r.json"]
    return ["restructure", *files, "--workers", ranks or 2]


def _study(ranks: int) -> list[object]:
    files = ["model.npz", "--calibration", "samples.npz", "--test", "samples.npz", "--out", f"{OUT}/study"]
    return ["study", *files, "--workers", "2", "--methods", "data,frobenius", "--budgets", "0.2,0.05"]


def _scaling(ranks: int) -> list[object]:
    files = ["strong", "model.npz", "--calibration", "samples.npz", "--out", f"{OUT}/scaling"]
    return ["scaling", *files, "--ranks", ranks, "--batches", 4, "--repeat", 200, "--seconds", 1]


_AT_START = {"before MPI": Place(BEFORE_MPI), "import": Place(IMPORT)}
_WRITING = {"writing": Place(IN_PLACE, of_root=True)}
_LOAD_SHARD = Place("repurpose_hpc.plan.files.store:read_shard")
_MODEL = Place("repurpose_hpc.model.importers.load:load_model")
_MIXING = Place("repurpose_hpc.restructure.driver:finish_mixing", call=2)
_OF_RANKS = {"load": _LOAD_SHARD, "first exchange": Place(FORWARD), "mid-stream": Place(FORWARD, call=100)}

_ROWS = (
    Command("infer", _infer, {**_AT_START, **_OF_RANKS, **_WRITING}, ("y.h5",)),
    Command(
        "restructure",
        _restructure,
        {
            **_AT_START,
            "load": _MODEL,
            "first exchange": Place("repurpose_hpc.restructure.team:Team.map"),
            "mid-stream": _MIXING,
            "writing": Place("repurpose_hpc.plan.files.store:write_shard", of_root=True),
        },
        ("new", "r.json"),
    ),
    Command(
        "restructure, one process",
        lambda ranks: _restructure(0),
        {
            "import": Place(IMPORT),
            "load": _MODEL,
            "mid-stream": _MIXING,
            "writing": Place("repurpose_hpc.plan.files.store:write_shard", call=2),
        },
        ("new", "r.json"),
        launched=False,
        ranks=(1,),
    ),
    Command(
        "study",
        _study,
        {
            "import": Place(IMPORT),
            "load": Place("repurpose_hpc.studies.accuracy.study:open_study"),
            "mid-stream": Place("repurpose_hpc.studies.accuracy.study:measure", call=2),
            "writing": Place(IN_PLACE, call=4),
        },
        ("study/study.csv",),
        launched=False,
        stays=True,
        ranks=(1,),
    ),
    Command(
        "probe",
        lambda ranks: ["probe", "--out", f"{OUT}/machine.json"],
        {
            **_AT_START,
            "load": Place("repurpose_hpc.runtime.loading:compile_kernels"),
            "first exchange": Place("repurpose_hpc.probe.links:measure_link"),
            "mid-stream": Place("repurpose_hpc.probe.links:measure_ranks"),
            **_WRITING,
        },
        ("machine.json",),
    ),
    Command(
        "doctor",
        lambda ranks: ["doctor", "--shards", f"shards{ranks}", "--report", f"{OUT}/r.json"],
        {
            **_AT_START,
            "load": Place("repurpose_hpc.doctor.facts:collect"),
            "first exchange": Place("repurpose_hpc.runtime.timing:empty_exchange_us"),
            **_WRITING,
        },
        ("r.json",),
        stays=True,
    ),
    Command(
        "scaling",
        _scaling,
        {
            "import": Place(IMPORT),
            "load": Place("repurpose_hpc.studies.scaling.study:open_study"),
            "mid-stream": Place("repurpose_hpc.studies.scaling.launches:Launch.measure"),
            "writing": Place(IN_PLACE, call=4),
        },
        ("scaling/scaling.csv",),
        launched=False,
        stays=True,
    ),
    Command(
        "scaling, a rank of its",
        _scaling,
        {**_AT_START, **_OF_RANKS, **_WRITING},
        ("scaling/scaling.csv",),
        launched=False,
        starts_ranks=True,
        stays=True,
    ),
    Command(
        "bench",
        lambda ranks: ["bench", "exchange", "--bytes", "4", "--repeat", 10, "--report", f"{OUT}/r.json"],
        {
            **_AT_START,
            "load": Place("repurpose_hpc.bench.placement:Placement.__init__"),
            "first exchange": Place("repurpose_hpc.bench.exchange:_checked"),
            "mid-stream": Place("repurpose_hpc.bench.exchange:in_turns"),
            **_WRITING,
        },
        ("r.json",),
    ),
)
COMMANDS = {one.name: one for one in _ROWS}


def fresh(folder: Path) -> Path:
    """The folder in which a command runs, without what earlier runs have left."""
    work = folder / "work"
    if not (work / "model.npz").exists():
        prepare(work)
    for name in (OUT, "cache", "notes"):
        shutil.rmtree(work / name, ignore_errors=True)
    (work / OUT).mkdir()
    return work


@functools.cache
def undisturbed(name: str, ranks: int, folder: Path) -> dict[str, list[Any]]:
    """The contents of all results of a command that nothing happens to.

    Args:
        name: of ``COMMANDS``.
        ranks: of the job.
        folder: to work in.
    """
    one, work = COMMANDS[name], fresh(folder)
    outcome = Run(command(one.words(ranks), ranks * one.launched), work).outcome(since=time.time())
    if outcome.status:
        raise SystemExit(f"{name}: expected status 0 without a fault, found {outcome.status}: {outcome.text}")
    return {final: content(work / OUT / final) for final in one.final}


def results(one: Command, work: Path, expected: Mapping[str, list[Any]]) -> tuple[list[str], bool]:
    """Results that are there under their final names, and whether all of them are whole.

    Args:
        one: the command.
        work: where it has run.
        expected: ``undisturbed``.
    """
    finals = [name for name in one.final if (work / OUT / name).exists()]
    return finals, all(is_whole(work / OUT / name, expected[name]) for name in finals)
