"""The command ``study``: accuracy against communication, for every method, as a table and a picture.

It runs in one process, whose threads share the work.  Every finished point is on disk before the next
begins, and a point that is there is not computed again.  Several processes, each with a part of the points
and a table for it, share a study without ever writing to the same file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repurpose_hpc.commands.parser import Parser, add_input_placement, add_seed, integers, numbers
from repurpose_hpc.commands.table import described
from repurpose_hpc.errors import UsageError, UserError
from repurpose_hpc.io.progress import say
from repurpose_hpc.restructure.options import ASSIGNMENTS, METHODS, Options
from repurpose_hpc.studies.plots import draw

if TYPE_CHECKING:
    from repurpose_hpc.commands.start import Context
    from repurpose_hpc.studies.accuracy.table import AccuracyTable

BUDGETS = (0.2, 0.1, 0.05, 0.02, 0.01)


def run(args: argparse.Namespace, context: Context) -> None:
    """Run the command in this process.

    Args:
        args: see ``parse``.
        context: of the start.

    Raises:
        UserError: files that do not fit, or points that failed.
    """
    # Imported after the command line is known to be right: SciPy takes its time.
    from repurpose_hpc.restructure.team import Team
    from repurpose_hpc.studies.accuracy.job import compute, open_study
    from repurpose_hpc.studies.accuracy.table import AccuracyTable

    study = open_study(args.model, args.calibration, args.test)
    table = AccuracyTable(args.out / f"{args.name}.csv", study.origin())
    for other in sorted(set(args.out.glob("study*.csv")) - {table.path}):
        table.take_over(AccuracyTable(other, study.origin()))
    there = sum(table.find(options) is not None for options in args.points)
    say(f"{len(args.points)} points, {there} of them already in {table.path}")
    failed = compute(study, args.points, table, Team(threads=context.threads), say)
    print(f"{len(args.points) - failed} points in {table.path}", flush=True)
    if args.part is None:
        _draw(table)
    if failed:
        raise UserError(
            f"{failed} of {len(args.points)} points failed, see column error of {table.path}; "
            "mend what it says and run the same command again: it computes only those"
        )


def parse(argv: Sequence[str], ranks: int | None = None, speaks: bool = True) -> argparse.Namespace:
    """The command line, with ``points`` made from it.

    Raises:
        UsageError: it is wrong.
    """
    args = make_parser(speaks).parse_args(argv)
    args.points, args.name = _points(args), "study"
    if args.part is not None:
        part, parts = args.part
        args.points, args.name = args.points[part - 1 :: parts], f"study-{part}-of-{parts}"
    return args


def make_parser(speaks: bool) -> Parser:
    """The parser, without what ``parse`` makes of the words."""
    parser = Parser(speaks=speaks, **described("study"))
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
    return parser


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


def _draw(table: AccuracyTable) -> None:
    draw(
        table.path.with_suffix(".png"),
        "repurpose_hpc.studies.accuracy.plot",
        table.rows,
        "no point sends anything",
    )
