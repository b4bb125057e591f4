"""Command lines: what several commands share."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import IO, NoReturn

import numpy as np

from repurpose_hpc.errors import UsageError, UserError
from repurpose_hpc.model.comm_dtype import EXACT, WIRES
from repurpose_hpc.plan.plan import PLACEMENTS
from repurpose_hpc.restructure.constraints import node_links
from repurpose_hpc.restructure.options import ASSIGNMENTS, INSIDE_NODE, METHODS, Options

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
    "imbalance",
    "memory_limits",
    "link_cost",
    "density",
    "wire",
    "seed",
)


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
    add_comm_budget(amount)
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
    add_input_placement(group)
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
        help="data: full method; independent: the same without any communication; the others are baselines "
        "(default %(default)s)",
    )
    group.add_argument(
        "--part-weights",
        type=numbers,
        metavar="w0,w1,...",
        help="relative speed of each worker (default: equal)",
    )
    group.add_argument(
        "--imbalance",
        type=float,
        metavar="E",
        help="no worker holds more than its share of the weights by more than this (default: neurons "
        "are shared out fairly, ghosts come on top)",
    )
    group.add_argument(
        "--memory-limits",
        type=numbers,
        metavar="M0,M1,...",
        help="MiB of float32 weights that each worker can hold (default: no limits)",
    )
    group.add_argument(
        "--link-cost",
        metavar="FILE|nodes:K",
        help="price of a value sent from worker p to q: a text or .npy file of P rows of P, or nodes:K "
        f"for K workers per node, {INSIDE_NODE} inside and 1 between nodes (default: all equal)",
    )
    group.add_argument(
        "--density",
        type=float,
        metavar="D",
        help=f"largest fraction of the weights kept, for less computation (default {Options.density:g})",
    )
    group.add_argument(
        "--wire",
        choices=WIRES,
        help=f"format in which ghost neurons travel (default {EXACT}: as they are); the adjustment takes its "
        "rounding into account",
    )
    add_seed(group)


def add_comm_budget(group: argparse._ActionsContainer) -> None:
    """Add ``--comm-budget``; None where it is not given."""
    group.add_argument(
        "--comm-budget",
        type=float,
        metavar="F",
        help=f"largest fraction of the dense communication, 0 to 1 (default {Options.comm_budget})",
    )


def add_input_placement(group: argparse._ActionsContainer) -> None:
    """Add ``--input-placement``."""
    group.add_argument(
        "--input-placement",
        choices=PLACEMENTS,
        default=Options.input_placement,
        help="who can read the input: every rank, each its block, the root alone (default %(default)s)",
    )


def add_dtype(group: argparse._ActionsContainer, help_text: str | None = None) -> None:
    """Add ``--dtype``."""
    group.add_argument("--dtype", choices=("float32", "float64"), default="float32", help=help_text)


def add_batches(group: argparse._ActionsContainer) -> None:
    """Add ``--batches``."""
    group.add_argument(
        "--batches",
        type=integers,
        default=(1, 16, 256),
        metavar="B,B,...",
        help="samples per forward (default 1,16,256)",
    )


def add_seed(group: argparse._ActionsContainer) -> None:
    """Add ``--seed``."""
    group.add_argument(
        "--seed", type=int, default=Options.seed, help="of random choices (default %(default)s)"
    )


def restructure_options(args: argparse.Namespace, ranks: int) -> Options:
    """The options on a parsed command line.

    Raises:
        UsageError: a value out of range.
    """
    given = {name: getattr(args, name) for name in RESTRUCTURE_OPTIONS if name != "calibration"}
    values = {"workers": ranks} | {name: value for name, value in given.items() if value is not None}
    try:
        if link_cost := values.pop("link_cost", None):
            values["link_costs"] = link_costs(link_cost, values["workers"])
        return Options(**values)
    except UserError as error:
        raise UsageError(str(error)) from None


def link_costs(text: str, workers: int) -> tuple[tuple[float, ...], ...]:
    """The prices that ``--link-cost`` names, P rows of P.

    Raises:
        UserError: neither a readable table nor ``nodes:K``.
    """
    if text.startswith("nodes:"):
        per_node = text.removeprefix("nodes:")
        if not per_node.isdecimal() or int(per_node) == 0:
            raise UserError(f"--link-cost: expected nodes:K with K workers per node, 1 or more, got {text!r}")
        costs = node_links(workers, int(per_node), INSIDE_NODE)
    else:
        try:
            costs = _read_table(Path(text))
        except (OSError, EOFError, TypeError, ValueError) as error:
            raise UserError(
                f"--link-cost: expected nodes:K or a file of {workers} rows of {workers} prices separated by "
                f"spaces, found {text}: {error}"
            ) from None
    return tuple(map(tuple, costs.tolist()))


def _read_table(path: Path) -> np.ndarray:
    """Numbers in rows, float64; raises what NumPy raises."""
    if path.suffix == ".npy":
        table = np.load(path)
    else:
        with warnings.catch_warnings():
            # An empty file is refused for its shape.
            warnings.simplefilter("ignore")
            table = np.loadtxt(path, ndmin=2)
    table = np.asarray(table, np.float64)
    if table.ndim != 2:
        raise ValueError(f"an array of shape {table.shape}")
    return table


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
