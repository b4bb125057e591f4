"""The command ``scaling``: time against the number of ranks, dense beside restructured.

It runs in one process, without MPI: it restructures for each number of ranks and starts ``scaling.point``
under the launcher for each.  Every finished point is on disk before the next begins, and a point that is
there is not measured again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from repurpose_hpc.commands.start import run_alone
from repurpose_hpc.process.threads import free_threads
from repurpose_hpc.studies.picture import draw, log

if TYPE_CHECKING:
    from repurpose_hpc.commands.parser import Parser
    from repurpose_hpc.restructure.options import Options
    from repurpose_hpc.studies.scaling.table import Table

STRONG, WEAK = "strong", "weak"


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
    from repurpose_hpc.errors import UserError
    from repurpose_hpc.restructure.team import Team
    from repurpose_hpc.studies.scaling.job import Launch, compute
    from repurpose_hpc.studies.scaling.subject import open_subject
    from repurpose_hpc.studies.scaling.table import Table

    subject = open_subject(args)
    table = Table(
        args.out / "scaling.json", {"kind": args.kind, **subject.origin(), "launcher": args.launcher}
    )
    wanted = [(ranks, form, batch) for ranks, form in args.points for batch in args.batches]
    there = sum(table.find(*point) is not None for point in wanted)
    log(f"{len(wanted)} points, {there} of them already in {table.path}")
    launch = Launch(args.launcher, args.repeat, args.seconds, args.timeout)
    failed = compute(subject, args.points, args.batches, table, launch, Team(threads=free_threads()), log)
    print(table.summary(), flush=True)
    print(f"{len(wanted) - failed} points in {table.path} and {table.path.with_suffix('.csv')}", flush=True)
    _draw(table)
    if failed:
        raise UserError(
            f"{failed} of {len(wanted)} points failed, see column error of {table.path.with_suffix('.csv')}; "
            "mend what it says and run the same command again: it measures only those"
        )


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line, with ``points`` (ranks, form) and ``options`` of restructuring made from it.

    Raises:
        UsageError: it is wrong.
    """
    from repurpose_hpc.commands.parser import UsageError

    parser = _parser()
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
    from repurpose_hpc.restructure.options import Options
    from repurpose_hpc.studies.scaling.table import DENSE, RESTRUCTURED

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


def _options(**values: object) -> Options:
    """How to restructure; the number of workers is that of the point."""
    from repurpose_hpc.commands.parser import UsageError
    from repurpose_hpc.errors import UserError
    from repurpose_hpc.restructure.options import Options

    try:
        return Options(workers=1, **values)
    except UserError as error:
        raise UsageError(str(error)) from None


def _parser() -> Parser:
    from repurpose_hpc.commands.parser import Parser, add_batches, add_dtype, integers, positive

    parser = Parser(
        speaks=True,
        prog="repurpose_hpc scaling",
        description="Time a network on more and more ranks, dense beside restructured.",
    )
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
    from repurpose_hpc.commands.parser import add_comm_budget, add_input_placement, add_seed
    from repurpose_hpc.restructure.options import ASSIGNMENTS, METHODS, Options

    group = parser.add_argument_group("restructuring")
    add = group.add_argument
    add("--calibration", type=Path, metavar="DATA", help="samples to restructure MODEL with")
    add_comm_budget(group)
    add_input_placement(group)
    add("--method", choices=METHODS, help=f"default {Options.method}")
    add("--assignment", choices=ASSIGNMENTS, help=f"default {Options.assignment}")
    add_seed(group)


def _draw(table: Table) -> None:
    draw(table.path.with_suffix(".png"), "repurpose_hpc.studies.scaling.plot", table, "every point failed")
