"""Table of the commands: a row a command, from which command line, start-up, help and tests follow.

A command is the module ``repurpose_hpc.commands.NAME`` with the functions ``make_parser``, ``parse`` and
``run`` (see ``commands.start``).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Any

from repurpose_hpc.errors import UsageError
from repurpose_hpc.process.numba import allow_all_cores, ready_numba


class Runs(Enum):
    """Processes that run a command."""

    ALONE = "in one process, without MPI"
    ON_RANKS = "on every rank of a job"
    EITHER = "alone without a launcher, on ranks under one"


@dataclass(frozen=True)
class Command:
    """A row of the table.

    Attributes:
        name: second word of the command line.
        runs: where.
        help: one line.
        example: a command line that works in a checkout.
        prepare: called before NumPy and Numba are imported.
        judges_launch: whether the command reports what is wrong with the launch, instead of being refused.
        listed: whether users are told of it.
    """

    name: str
    runs: Runs
    help: str
    example: str
    prepare: tuple[Callable[[], None], ...] = ()
    judges_launch: bool = False
    listed: bool = True

    @property
    def module(self) -> str:
        """Name of the module."""
        return f"repurpose_hpc.commands.{self.name}"


MODEL = "repurpose_hpc/bundled/model.npz"
CALIBRATION = "--calibration repurpose_hpc/bundled/calibration.npz"

_ROWS = (
    Command(
        "infer",
        Runs.ON_RANKS,
        "Run a restructured network over MPI; without MODEL and --shards, the bundled network.",
        "mpirun -n 2 repurpose-hpc infer",
        prepare=(ready_numba,),
    ),
    Command(
        "restructure",
        Runs.EITHER,
        "Restructure a trained network for P workers and write one HDF5 shard for each.",
        f"repurpose-hpc restructure {MODEL} {CALIBRATION} --workers 4 --out shards",
    ),
    Command(
        "generate",
        Runs.ON_RANKS,
        "Let a transformer continue texts, its heads and weights split over the ranks.",
        "mpirun -n 2 repurpose-hpc generate tests/data/transformers/llama"
        " --ids tests/data/prompts.npy --tokens 12",
        prepare=(ready_numba,),
    ),
    Command(
        "finetune",
        Runs.ON_RANKS,
        "Tune the weights of shards on the ranks that run them, and write new shards.",
        "mpirun -n 2 repurpose-hpc finetune --shards shards --data repurpose_hpc/bundled/calibration.npz"
        " --epochs 2 --out tuned",
        prepare=(ready_numba,),
    ),
    Command(
        "inspect",
        Runs.ALONE,
        "Show the spaces and mixings of a model and its dense traffic, or what is not supported.",
        f"repurpose-hpc inspect {MODEL} --workers 8",
    ),
    Command(
        "export",
        Runs.ALONE,
        "Write the network in shards as ONNX graph, for PyTorch, or as ONNX graphs of every worker.",
        "repurpose-hpc export shards --to model.onnx",
    ),
    Command(
        "doctor",
        Runs.ON_RANKS,
        "Say what a job would run on and what would go wrong; start it as infer will be started.",
        "mpirun -n 2 repurpose-hpc doctor",
        judges_launch=True,
    ),
    Command(
        "study",
        Runs.ALONE,
        "Restructure for numbers of workers, methods and budgets: accuracy against communication.",
        f"repurpose-hpc study {MODEL} {CALIBRATION} --test repurpose_hpc/bundled/test.npz"
        " --workers 2 --methods magnitude,frobenius --budgets 0.05 --out study",
    ),
    Command(
        "scaling",
        Runs.ALONE,
        "Time a network on more and more ranks, dense beside restructured.",
        "repurpose-hpc scaling strong --ranks 1,2 --width 256 --batches 1 --out scaling",
    ),
    Command(
        "bench",
        Runs.ON_RANKS,
        "Measure kernels, exchanges, inference or streams, each beside what else there is.",
        "mpirun -n 2 repurpose-hpc bench exchange --bytes 4,4096 --repeat 10",
        prepare=(allow_all_cores,),
    ),
    Command(
        "probe",
        Runs.ON_RANKS,
        "Measure kernels, memory and links of a machine, for forecast; start a rank for every core.",
        "mpirun -n 2 repurpose-hpc probe --out machine.json",
    ),
    Command(
        "forecast",
        Runs.ALONE,
        "Forecast the time of an inference for numbers of ranks that are not at hand.",
        f"repurpose-hpc forecast {MODEL} --machine gigabit --ranks 1,8,64",
    ),
    Command(
        "report",
        Runs.ALONE,
        "Draw shards, reports, studies and traces: one HTML file of pictures and their numbers.",
        "repurpose-hpc report shards --out report.html",
    ),
    Command(
        "completion",
        Runs.ALONE,
        "Print what lets a shell complete command lines, by the package shtab.",
        "repurpose-hpc completion bash",
    ),
    Command(
        "point",
        Runs.ON_RANKS,
        "Time some shards; started by scaling.",
        "mpirun -n 2 repurpose-hpc point --shards shards --ranks 2 --batches 1 --repeat 5 --seconds 1"
        " --dtype float32 --report point.json",
        listed=False,
    ),
)
COMMANDS = {row.name: row for row in _ROWS}
# Names that commands had.
FORMER = {"calibrate": "probe"}
HELP = ("--help", "-h")
"""First words that ask for the list of all commands."""
VERSION = "--version"
"""First word that asks for the version."""


def find(name: str) -> Command:
    """The row of a command.

    Raises:
        UsageError: there is none.
    """
    if name in COMMANDS:
        return COMMANDS[name]
    listed = [row.name for row in _ROWS if row.listed]
    near = [FORMER[name]] if name in FORMER else get_close_matches(name, listed) or listed
    raise UsageError(
        f"expected a command, found {name!r}; did you mean {' or '.join(near)}? repurpose-hpc --help lists "
        "all of them"
    )


def described(name: str) -> dict[str, Any]:
    """Arguments of ``Parser`` that follow from the row of a command: name, description, example."""
    row = COMMANDS[name]
    return {
        "prog": f"repurpose-hpc {name}",
        "description": row.help,
        "epilog": f"example:\n  {row.example}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def overview() -> str:
    """Help on all commands, several lines."""
    listed = [row for row in _ROWS if row.listed]
    width = max(len(row.name) for row in listed)
    lines = [f"  {row.name:<{width}}  {row.help}" for row in listed]
    return "\n".join(
        [
            "usage: repurpose-hpc COMMAND ...",
            "",
            "Restructure a trained network for P workers and run it over MPI.",
            "",
            *lines,
            "",
            "repurpose-hpc COMMAND --help says more; python -m repurpose_hpc COMMAND is the same.",
            f"repurpose-hpc {VERSION} prints the version.",
        ]
    )
