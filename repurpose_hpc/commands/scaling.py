"""The command ``scaling``: time against the number of ranks, dense beside restructured.

It runs in one process, without MPI: it restructures for each number of ranks and starts the command ``point``
under the launcher for each.  Every finished point is on disk before the next begins, and a point that is
there is not measured again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repurpose_hpc.commands.parser import (
    Parser,
    add_batches,
    add_comm_budget,
    add_dtype,
    add_input_placement,
    add_seed,
    integers,
    positive,
)
from repurpose_hpc.commands.table import described
from repurpose_hpc.errors import UsageError, UserError
from repurpose_hpc.io.progress import say
from repurpose_hpc.restructure.options import ASSIGNMENTS, METHODS, Options
from repurpose_hpc.studies.plots import draw
from repurpose_hpc.studies.scaling.table import DENSE, RESTRUCTURED, ScalingTable

if TYPE_CHECKING:
    from repurpose_hpc.commands.start import Context

STRONG, WEAK = "strong", "weak"


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
    from repurpose_hpc.studies.scaling.job import Launch, compute
    from repurpose_hpc.studies.scaling.subject import open_study

    study = open_study(args)
    origin = {"kind": args.kind, **study.origin(), "launcher": args.launcher}
    table = ScalingTable(args.out / "scaling.json", origin)
    rows = [(ranks, form, batch) for ranks, form in args.points for batch in args.batches]
    there = sum(table.finished(*row) is not None for row in rows)
    say(f"{len(rows)} points, {there} of them already in {table.path}")
    launch = Launch(args.launcher, args.repeat, args.seconds, args.timeout)
    failed = compute(study, args.points, args.batches, table, launch, Team(threads=context.threads), say)
    print(table.summary(), flush=True)
    print(f"{len(rows) - failed} points in {table.path} and {table.path.with_suffix('.csv')}", flush=True)
    _draw(table)
    if failed:
        raise UserError(
            f"{failed} of {len(rows)} points failed, see column error of {table.path.with_suffix('.csv')}; "
            "mend what it says and run the same command again: it measures only those"
        )


def parse(argv: Sequence[str], ranks: int | None = None, speaks: bool = True) -> argparse.Namespace:
    """The command line, with ``points`` (ranks, form) and ``options`` of restructuring made from it.

    Raises:
        UsageError: it is wrong.
    """
    parser = make_parser(speaks)
    args = parser.parse_args(argv)
    synthetic = args.model is None
    if args.kind == WEAK and not synthetic:
        parser.error("weak scaling grows a synthetic network (--width, --layers): MODEL is for strong")
    if synthetic and (args.calibration or args.shards or args.method or args.assignment):
        parser.error(
            "--calibration, --shards, --method and --assignment belong to a MODEL; without one, a synthetic "
            "network is cut where its weights are smallest"
        )
    if not synthetic and (args.width or args.layers):
        parser.error(
            "--width and --layers are those of the synthetic network, which is measured without MODEL"
        )
    if not synthetic and bool(args.calibration) == bool(args.shards):
        parser.error("a MODEL needs either --calibration DATA, to be restructured, or --shards PATTERN")
    if args.shards and (args.method or args.assignment or args.comm_budget is not None):
        parser.error(
            "--method, --assignment and --comm-budget have no effect: --shards are restructured already"
        )
    for name in ("ranks", "batches"):
        if min(getattr(args, name)) < 1:
            raise UsageError(f"--{name}: expected numbers of 1 or more, got {min(getattr(args, name))}")
    _fill_in(args, synthetic)
    return args


def _fill_in(args: argparse.Namespace, synthetic: bool) -> None:
    args.width, args.layers = args.width or 1024, args.layers or 4
    args.batches = sorted(set(args.batches))
    # One rank sends nothing to anybody: dense is all there is.
    forms = {ranks: (DENSE, RESTRUCTURED) if ranks > 1 else (DENSE,) for ranks in sorted(set(args.ranks))}
    args.points = [(ranks, form) for ranks, each in forms.items() for form in each]
    method, assignment = ("magnitude", "contiguous") if synthetic else (Options.method, Options.assignment)
    args.options = _options(
        comm_budget=Options.comm_budget if args.comm_budget is None else args.comm_budget,
        input_placement=args.input_placement,
        method=args.method or method,
        assignment=args.assignment or assignment,
        seed=args.seed,
    )


def _options(**values: Any) -> Options:
    """Options of restructuring; the number of workers is that of the point."""
    try:
        return Options(workers=1, **values)
    except UserError as error:
        raise UsageError(str(error)) from None


def make_parser(speaks: bool) -> Parser:
    """The parser, without what ``parse`` checks and fills in."""
    parser = Parser(speaks=speaks, **described("scaling"))
    add = parser.add_argument
    add("kind", choices=(STRONG, WEAK), help="strong: one network; weak: as many weights for every rank")
    add(
        "model",
        nargs="?",
        type=Path,
        metavar="MODEL",
        help=".npz, .safetensors or .onnx, for strong (default: a synthetic network)",
    )
    add("--ranks", type=integers, required=True, metavar="P,P,...", help="numbers of ranks")
    add("--out", type=Path, required=True, metavar="DIR", help="gets scaling.csv, .json and .png")
    add(
        "--launcher",
        default="mpirun",
        metavar="L",
        help="mpirun, srun, or a command line such as 'mpirun --bind-to core'; '-n P' is added, or put where "
        "it says {ranks} (default %(default)s)",
    )
    add_batches(parser)
    add("--width", type=positive, metavar="N", help="of the synthetic network, on one rank (default 1024)")
    add("--layers", type=positive, metavar="L", help="of the synthetic network (default 4)")
    add(
        "--shards",
        metavar="PATTERN",
        help="take the restructured shards from here instead; {ranks} stands for the number of ranks",
    )
    add(
        "--repeat", type=positive, default=50, metavar="N", help="most forwards to time (default %(default)s)"
    )
    add(
        "--seconds",
        type=float,
        default=2.0,
        metavar="S",
        help="fewer, but 5, where they would take longer than this (default %(default)g)",
    )
    add(
        "--timeout",
        type=float,
        default=1800.0,
        metavar="S",
        help="a launch that takes longer has failed (default %(default)g)",
    )
    add_dtype(parser)
    _add_restructuring(parser)
    return parser


def _add_restructuring(parser: Parser) -> None:
    group = parser.add_argument_group("restructuring")
    add = group.add_argument
    add("--calibration", type=Path, metavar="DATA", help="samples to restructure MODEL with")
    add_comm_budget(group)
    add_input_placement(group)
    add("--method", choices=METHODS, help=f"default {Options.method}")
    add("--assignment", choices=ASSIGNMENTS, help=f"default {Options.assignment}")
    add_seed(group)


def _draw(table: ScalingTable) -> None:
    draw(table.path.with_suffix(".png"), "repurpose_hpc.studies.scaling.plot", table, "every point failed")
