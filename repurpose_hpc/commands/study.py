"""The command ``study``: how accuracy falls with communication, for every method, as a table and a picture.

It runs in one process, whose threads share the work.  Every finished point is on disk before the next
begins, and a point that is there is not computed again.  Several processes, each with a part of the points
and a table for it, share a study without ever writing to the same file.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from repurpose_hpc.commands.start import run_alone
from repurpose_hpc.errors import UserError
from repurpose_hpc.process.threads import free_threads
from repurpose_hpc.studies.picture import draw, log

if TYPE_CHECKING:
    from repurpose_hpc.restructure.options import Options
    from repurpose_hpc.studies.accuracy.table import Table

BUDGETS = (0.2, 0.1, 0.05, 0.02, 0.01)


def main() -> None:
    """Run the command of ``sys.argv``."""
    run_alone(run)


def run(argv: list[str]) -> None:
    """Run the command in this process.

    Args:
        argv: without the program's name.

    Raises:
        UserError: a wrong command line (status 2), files that do not fit, or points that failed.
    """
    args = parse(argv)
    # Imported after the command line is known to be right: SciPy takes its time.
    from repurpose_hpc.restructure.team import Team
    from repurpose_hpc.studies.accuracy.job import compute, open_subject
    from repurpose_hpc.studies.accuracy.table import Table

    subject = open_subject(args.model, args.calibration, args.test)
    table = Table(args.out / f"{args.name}.csv", subject.origin())
    for other in sorted(set(args.out.glob("study*.csv")) - {table.path}):
        table.take_over(Table(other, subject.origin()))
    there = sum(table.find(options) is not None for options in args.points)
    log(f"{len(args.points)} points, {there} of them already in {table.path}")
    failed = compute(subject, args.points, table, Team(threads=free_threads()), log)
    print(f"{len(args.points) - failed} points in {table.path}", flush=True)
    if args.part is None:
        _draw(table)
    if failed:
        raise UserError(
            f"{failed} of {len(args.points)} points failed, see column error of {table.path}; "
            "mend what it says and run the same command again: it computes only those"
        )


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line, with ``points`` made from it.

    Raises:
        UsageError: it is wrong.
    """
    from repurpose_hpc.commands.parser import Parser, add_input_placement, add_seed, integers, numbers
    from repurpose_hpc.restructure.options import ASSIGNMENTS, METHODS, Options

    parser = Parser(
        speaks=True,
        prog="repurpose_hpc study",
        description="Restructure a trained network for every number of workers, method and budget, and "
        "report accuracy against communication.",
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help=".npz, .safetensors or .onnx")
    add("--calibration", type=Path, required=True, metavar="DATA", help="samples to restructure with")
    add("--test", type=Path, required=True, metavar="DATA", help="samples that only report")
    add("--out", type=Path, required=True, metavar="DIR", help="gets study.csv and study.png")
    add("--workers", type=integers, required=True, metavar="P,P,...", help="numbers of parts")
    add(
        "--methods",
        type=lambda text: text.split(","),
        required=True,
        metavar="M,M,...",
        help=f"of {', '.join(METHODS)}; M/A takes the assignment A",
    )
    add(
        "--budgets",
        type=numbers,
        default=BUDGETS,
        metavar="F,F,...",
        help=f"communication fractions, 0 to 1 (default {','.join(map(str, BUDGETS))})",
    )
    add_input_placement(parser)
    add(
        "--assignment",
        choices=ASSIGNMENTS,
        default=Options.assignment,
        help="of the methods that name none (default %(default)s)",
    )
    add_seed(parser)
    add(
        "--part",
        type=_part,
        metavar="K/N",
        help="only the Kth of N parts of the points, in a table of its own, so that N processes can share "
        "the work; the same command without it takes over what they found",
    )
    args = parser.parse_args(argv)
    args.points, args.name = _points(args), "study"
    if args.part is not None:
        part, parts = args.part
        args.points, args.name = args.points[part - 1 :: parts], f"study-{part}-of-{parts}"
    return args


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"expected K/N with K from 1 to N, got {text!r}")
    return int(part), int(parts)


def _points(args: argparse.Namespace) -> list[Options]:
    """Every combination, in the order of computing; one that is asked for twice is there once."""
    return list(
        dict.fromkeys(
            _point(args, workers, method, budget)
            for workers in args.workers
            for method in args.methods
            for budget in args.budgets
        )
    )


def _point(args: argparse.Namespace, workers: int, method: str, budget: float) -> Options:
    from repurpose_hpc.commands.parser import UsageError
    from repurpose_hpc.restructure.options import Options

    name, _, assignment = method.partition("/")
    try:
        return Options(
            workers=workers,
            comm_budget=budget,
            input_placement=args.input_placement,
            assignment=assignment or args.assignment,
            method=name,
            seed=args.seed,
        )
    except UserError as error:
        raise UsageError(f"{workers} workers, method {method}, budget {budget}: {error}") from None


def _draw(table: Table) -> None:
    draw(
        table.path.with_suffix(".png"),
        "repurpose_hpc.studies.accuracy.plot",
        table.rows,
        "no point sends anything",
    )
