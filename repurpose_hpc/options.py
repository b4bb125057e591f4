"""Command lines: what several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import IO, NoReturn

from repurpose_hpc.errors import UserError
from repurpose_hpc.plan.plan import PLACEMENTS
from repurpose_hpc.restructure.options import ASSIGNMENTS, METHODS, Options

RESTRUCTURE_OPTIONS = (
    "calibration",
    "workers",
    "comm_budget",
    "max_accuracy_drop",
    "max_output_error",
    "input_placement",
    "assignment",
    "method",
    "part_weights",
    "seed",
)


class UsageError(UserError):
    """A command line that cannot be meant; commands end with the status that shells expect for it."""

    status = 2


class Parser(argparse.ArgumentParser):
    """An argument parser for a program of several ranks.

    Args:
        speaks: whether this rank prints the help.

    Every rank parses the same command line; a wrong one raises ``UsageError`` instead of printing.
    """

    def __init__(self, *, speaks: bool, **kwargs) -> None:
        super().__init__(allow_abbrev=False, **kwargs)
        self.speaks = speaks

    def print_help(self, file: IO[str] | None = None) -> None:
        """Print the help, on the rank that speaks."""
        if self.speaks:
            super().print_help(file)

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UsageError(f"{message}; see python -m {self.prog} --help")


def add_restructure_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a network is restructured."""
    group = parser.add_argument_group("restructuring")
    group.add_argument("--calibration", type=Path, metavar="DATA", help="samples to calibrate with")
    group.add_argument("--workers", type=int, metavar="P", help="parts (default: the number of ranks)")
    amount = group.add_mutually_exclusive_group()
    amount.add_argument(
        "--comm-budget",
        type=float,
        metavar="F",
        help=f"largest fraction of the dense communication, 0 to 1 (default {Options.comm_budget})",
    )
    amount.add_argument(
        "--max-accuracy-drop",
        type=float,
        metavar="PP",
        help="instead: the least communication that loses at most so many percentage points of accuracy on "
        "a part of DATA, which needs labels, that is held out",
    )
    amount.add_argument(
        "--max-output-error",
        type=float,
        metavar="E",
        help="instead: the least communication whose outputs have at most this relative error there",
    )
    group.add_argument(
        "--input-placement",
        choices=PLACEMENTS,
        default="replicated",
        help="who can read the input: every rank, each its block, the root alone (default %(default)s)",
    )
    group.add_argument(
        "--assignment",
        choices=ASSIGNMENTS,
        default="munkres",
        help="of neurons to workers (default %(default)s)",
    )
    group.add_argument(
        "--method",
        choices=METHODS,
        default="data",
        help="data: full method; the others are baselines (default %(default)s)",
    )
    group.add_argument(
        "--part-weights",
        type=numbers,
        metavar="w0,w1,...",
        help="relative capacity of each worker (default: equal)",
    )
    group.add_argument("--seed", type=int, default=0, help="of random choices (default %(default)s)")


def restructure_options(args: argparse.Namespace, ranks: int) -> Options:
    """The options on a parsed command line.

    Raises:
        UsageError: a value out of range.
    """
    given = {name: getattr(args, name) for name in RESTRUCTURE_OPTIONS if name != "calibration"}
    values = {name: value for name, value in given.items() if value is not None}
    try:
        return Options(**{"workers": ranks, **values})
    except UserError as error:
        raise UsageError(str(error)) from None


def positive(text: str) -> int:
    """An integer of 1 or more."""
    return _at_least(1, text)


def natural(text: str) -> int:
    """An integer of 0 or more."""
    return _at_least(0, text)


def _at_least(smallest: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = smallest - 1
    if value < smallest:
        raise argparse.ArgumentTypeError(f"expected an integer of {smallest} or more, got {text!r}")
    return value


def numbers(text: str) -> tuple[float, ...]:
    """Numbers separated by commas."""
    return _listed(float, "numbers", text)


def integers(text: str) -> tuple[int, ...]:
    """Integers separated by commas."""
    return _listed(int, "integers", text)


def _listed(kind: type, name: str, text: str) -> tuple:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {name} separated by commas, got {text!r}") from None
