"""The command ``infer``: from a command line to a report.

The root finds the shards (those given, or those in the cache); if there are none, all ranks restructure
together.  Then all ranks run.
``infer --shards`` imports neither SciPy nor ONNX nor the restructuring.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc import bundled
from repurpose_hpc.commands.parser import (
    RESTRUCTURE_OPTIONS,
    Parser,
    UsageError,
    add_dtype,
    add_restructure_options,
    natural,
    positive,
    restructure_options,
)
from repurpose_hpc.commands.table import described
from repurpose_hpc.io.atomic import check_writable
from repurpose_hpc.io.progress import Progress
from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.model.comm_dtype import EXACT, WIRES
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.network import Network
from repurpose_hpc.mpi.agreement import alike, collectively
from repurpose_hpc.plan.files.store import check_model, read_plan
from repurpose_hpc.process.threads import threads
from repurpose_hpc.report import text as report
from repurpose_hpc.runtime.checks import check_input
from repurpose_hpc.runtime.exchange.choose import TRANSPORT_CHOICES
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT
from repurpose_hpc.runtime.job import run as run_job
from repurpose_hpc.runtime.options import RunOptions
from repurpose_hpc.runtime.setup import Job

if TYPE_CHECKING:
    from mpi4py import MPI

    from repurpose_hpc.commands.start import RankContext


def run(args: argparse.Namespace, context: RankContext) -> None:
    """Run the command; collective.

    Args:
        args: see ``parse``.
        context: of the start.

    Raises:
        SystemExit: on every rank, after one message: 2 for a wrong command line, 1 for other failures.
    """
    comm = context.comm
    prepared = Prepared(None, None, False)
    with collectively(comm):
        if comm.rank == 0:
            prepared = prepare(args, comm.size)
    shards, there = comm.bcast((prepared.shards, prepared.cached or args.shards is not None), root=0)
    if not there:
        restructure_together(args, shards, comm)
    job = Job(shards, args.input, args.output, _run_options(args))
    result = run_job(job, prepared.original, comm, context.started)
    with collectively(comm):
        if result is not None:
            result.update(cached=prepared.cached, blas_threads=threads())
            print(report.render(result), flush=True)
            if args.report is not None:
                report.write(args.report, result)


def _run_options(args: argparse.Namespace) -> RunOptions:
    return RunOptions(
        batch_size=args.batch_size,
        verify=args.verify,
        repeat=args.repeat,
        dtype=np.dtype(args.dtype),
        certify=args.certify,
        resume=args.resume,
        comm_dtype=args.wire,
        weights_dtype=args.weights_dtype,
        transport=args.exchange,
        threads=args.threads,
        micro_batches=args.micro_batches,
    )


def parse(argv: Sequence[str], ranks: int, speaks: bool) -> argparse.Namespace:
    """The command line, with the bundled network and data filled in where no model is named.

    Raises:
        UsageError: it is wrong.
    """
    parser = make_parser(speaks)
    args = parser.parse_args(argv)
    if args.shards is not None:
        _refuse_restructure_options(parser, args)
        if args.certify and args.model is None:
            parser.error("--certify needs MODEL, the network that --shards were made from, to compare with")
    elif args.model is None:
        args.model = bundled.MODEL
        args.calibration = args.calibration or bundled.CALIBRATION
        args.input = args.input or bundled.TEST
        args.verify = args.verify is not False
    elif args.calibration is None:
        parser.error("a MODEL needs --calibration DATA to be restructured, or --shards DIR")
    if args.input is None:
        parser.error("expected --input DATA, the samples to infer")
    if args.resume and args.output is None:
        parser.error("--resume needs --output OUT.h5, of which an interrupted run keeps a part")
    args.options = None if args.shards else restructure_options(args, ranks)
    return args


@dataclass(frozen=True)
class Prepared:
    """Findings of the root before the run.

    Attributes:
        shards: directory of the plan, where it is or will be; None: the root knows.
        original: the network before restructuring; None: not known.
        cached: whether the plan was in the cache.
    """

    shards: Path | None
    original: Network | None
    cached: bool


def prepare(args: argparse.Namespace, ranks: int) -> Prepared:
    """Find the shards, or where to make them; on the root alone.

    Raises:
        UserError: something in the files does not fit, or a result could not be written.
    """
    for path in (args.output, args.report):
        if path is not None:
            check_writable(path)
    return _given(args) if args.shards is not None else _restructured(args, ranks)


def _given(args: argparse.Namespace) -> Prepared:
    """Check the shards of the command line against the model, where one is named."""
    if args.model is None:
        return Prepared(args.shards, None, cached=False)
    network = _fitting_model(args)
    remedy = "they belong to another model: name that, or leave it out"
    check_model(read_plan(args.shards), network, args.model, remedy)
    return Prepared(args.shards, network, cached=False)


def _restructured(args: argparse.Namespace, ranks: int) -> Prepared:
    """Look for the restructured model in the cache."""
    network = _fitting_model(args)
    if args.options.workers < ranks:
        raise UsageError(
            f"--workers: expected at least the number of ranks, {ranks}, got {args.options.workers}; "
            "start fewer ranks"
        )
    from repurpose_hpc.restructure.cache import look_up

    calibration = open_samples(args.calibration)
    shards, cached = look_up(network, calibration, args.options, np.dtype(args.dtype))
    return Prepared(shards, network, cached)


def _fitting_model(args: argparse.Namespace) -> Network:
    network = load_model(args.model)
    check_input(open_samples(args.input), network)
    return network


def restructure_together(args: argparse.Namespace, shards: Path, comm: MPI.Comm) -> None:
    """All ranks restructure the model and write ``shards``; collective.

    Raises:
        SystemExit: on every rank, after one message.
    """
    from repurpose_hpc.restructure.job import restructure_to
    from repurpose_hpc.restructure.team import Team

    with collectively(comm):
        network, calibration = load_model(args.model), open_samples(args.calibration)
    with alike(comm):
        log, dtype = Progress(speaks=comm.rank == 0), np.dtype(args.dtype).type
        restructure_to(shards, network, calibration, args.options, dtype, log, Team(comm))


def make_parser(speaks: bool) -> Parser:
    """The parser, without what ``parse`` checks."""
    parser = Parser(speaks=speaks, **described("infer"))
    parser.add_argument(
        "model",
        nargs="?",
        type=Path,
        metavar="MODEL",
        help=".npz, .safetensors or .onnx; restructured first, unless --shards says where that was done",
    )
    parser.add_argument("--shards", type=Path, metavar="DIR", help="written by repurpose_hpc.restructure")
    parser.add_argument("--input", type=Path, metavar="DATA", help="samples: .npy, .npz (x, y) or .h5 (x, y)")
    parser.add_argument("--output", type=Path, metavar="OUT.h5", help="gets dataset y (samples, outputs)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="if this run ends early, let the same command go on where it ended, and do so now",
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=256,
        metavar="N",
        help="samples per forward (default %(default)s)",
    )
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        help="compare with the float64 reference of the same weights (default: for the bundled network)",
    )
    parser.add_argument(
        "--certify",
        action="store_true",
        help="count the samples whose class provably is that of the original MODEL",
    )
    parser.add_argument(
        "--repeat", type=natural, default=20, metavar="N", help="forwards to time (default %(default)s)"
    )
    add_dtype(parser)
    parser.add_argument(
        "--exchange",
        choices=TRANSPORT_CHOICES,
        default=DEFAULT_TRANSPORT,
        help="transport of what ranks exchange; auto: measures all of them first (default %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=positive,
        default=1,
        metavar="N",
        help="threads of each rank, which share the rows of every product (default %(default)s)",
    )
    parser.add_argument(
        "--micro-batches",
        type=positive,
        default=1,
        metavar="N",
        help="parts of a batch that take turns to compute and to wait for ghosts (default %(default)s)",
    )
    parser.add_argument(
        "--weights-dtype",
        choices=WIRES,
        default=EXACT,
        help="how dense weights are kept in memory; int8 with a scale for each row (default: as they are)",
    )
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="the report, for scripts")
    add_restructure_options(parser)
    return parser


def _refuse_restructure_options(parser: Parser, args: argparse.Namespace) -> None:
    # Shards can run with another wire than that for which they were adjusted.
    for name in RESTRUCTURE_OPTIONS:
        if name != "wire" and getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} has no effect: --shards are restructured already")
