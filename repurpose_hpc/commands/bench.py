"""The command ``bench``: kernels, exchanges, inference or streams, each beside its peers, in one run.

The keys of the report are those of ``report.schema.BenchKernelsReport`` and its like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from repurpose_hpc.bench import machine
from repurpose_hpc.bench.options import ExchangeOptions, InferenceOptions, KernelOptions, StreamOptions
from repurpose_hpc.bench.peers import Peers
from repurpose_hpc.bench.placement import Placement
from repurpose_hpc.bench.table import BenchTable
from repurpose_hpc.commands.parser import Parser, make
from repurpose_hpc.commands.table import described
from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import (
    FieldError,
    count,
    purpose,
    shown,
)
from repurpose_hpc.io.atomic import check_writable
from repurpose_hpc.io.speech import says_text
from repurpose_hpc.mpi.agreement import collectively
from repurpose_hpc.mpi.launch import library_name
from repurpose_hpc.process.threads import threads
from repurpose_hpc.report import text as report

if TYPE_CHECKING:
    from mpi4py import MPI

    from repurpose_hpc.commands.start import RankContext


def run(args: Arguments, context: RankContext) -> None:
    """Run the command; collective.

    Args:
        args: see ``parse``.
        context: of the start.

    Raises:
        SystemExit: on every rank, after one message.
    """
    comm = context.comm
    with collectively(comm):
        if comm.rank == 0 and args.report is not None:
            check_writable(args.report)
    peers = Peers(comm)  # before ranks are pinned: torch's threads are made for the cores that it sees first
    placement = Placement(comm)
    result = _circumstances(args, placement, context)
    if comm.rank == 0 and says_text():
        print(machine.render(result["machine"]), _ranks(result), sep="\n", flush=True)
    tables = _measure(args, placement, peers, comm)
    result["left_out"] = peers.left_out
    with collectively(comm):
        if comm.rank == 0:
            # The tables were printed as they came.
            report.deliver(result | {table.name: table.rows for table in tables}, "", args.report)


def _circumstances(args: Arguments, placement: Placement, context: RankContext) -> dict[str, Any]:
    """The keys of the report without those of the measurements."""
    return {
        "subject": args.subject,
        "options": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(args).items()
            if name not in ("subject", "report")
        },
        "ranks": context.comm.size,
        "cores": placement.physical,
        "pinned": placement.pinned,
        "oversubscribed": placement.oversubscribed,
        "machine": machine.describe(library_name(context.library)),
    }


Arguments = KernelOptions | ExchangeOptions | InferenceOptions | StreamOptions
SUBJECTS: tuple[type[Arguments], ...] = get_args(Arguments)


def make_parser(speaks: bool) -> Parser:
    """The parser."""
    parser = Parser(speaks=speaks, **described("bench"))
    subjects = parser.add_subparsers(dest="subject", required=True)
    for declared in SUBJECTS:
        about = purpose(declared)
        subject = subjects.add_parser(declared.subject, help=about, description=about)
        subject.speaks = speaks
        subject.add(declared)
        subject.complete()
    return parser


def parse(argv: Sequence[str], ranks: int = 1, speaks: bool = True) -> Arguments:
    """The command line; for the arguments see ``commands.start``.

    Raises:
        UsageError: it is wrong.
        UserError: it does not fit the number of ranks.
    """
    values = make_parser(speaks).read(argv)
    options_class = next(declared for declared in SUBJECTS if declared.subject == values["subject"])
    args = make(options_class, values)
    if threads() != "1":
        raise UserError(
            f"expected one thread per rank, found {threads()} in the environment; leave OMP_NUM_THREADS and "
            "its like unset: candidates with more threads set them by themselves"
        )
    _check_ranks(args, ranks)
    return args


def _check_ranks(args: Arguments, ranks: int) -> None:
    if isinstance(args, KernelOptions) and ranks > 1:
        raise UserError(f"kernels: expected one process, found {ranks} ranks; start it without mpirun")
    if isinstance(args, ExchangeOptions) and ranks == 1:
        raise UserError("exchange: expected 2 ranks or more, found 1; start it with mpirun -n 2")
    if isinstance(args, ExchangeOptions) and any(size % 4 for size in args.bytes):
        raise FieldError(
            "bytes",
            f"expected multiples of 4, as numbers of float32 are sent, found {shown(args.bytes)}; try "
            "bytes=(4, 16)",
        )
    if isinstance(args, InferenceOptions) and any(width % ranks for width in args.widths):
        raise FieldError(
            "widths",
            f"expected multiples of the {ranks} ranks, as all_gather of peers wants equal parts, found "
            f"{shown(args.widths)}; try widths={64 * ranks}",
        )


def _measure(args: Arguments, placement: Placement, peers: Peers, comm: MPI.Intracomm) -> list[BenchTable]:
    if isinstance(args, KernelOptions):
        from repurpose_hpc.bench import kernels

        return kernels.run(args.sizes, args.repeat, peers)
    if isinstance(args, ExchangeOptions):
        from repurpose_hpc.bench import exchange

        return exchange.run(args.bytes, args.repeat, placement, peers, comm)
    if isinstance(args, StreamOptions):
        from repurpose_hpc.bench import stream

        return stream.run(args, placement, peers, comm)
    from repurpose_hpc.bench import inference

    return inference.run(args, placement, peers, comm)


def _ranks(result: dict) -> str:
    binding = "pinned to a core each" if result["pinned"] else "not pinned"
    warning = "; OVERSUBSCRIBED: times are not those of so many cores" if result["oversubscribed"] else ""
    return f"ranks: {result['ranks']} on {count(result['cores'], 'core')}, {binding}{warning}"
