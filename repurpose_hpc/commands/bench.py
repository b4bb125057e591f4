"""The command ``bench``: kernels, exchanges or inference, each beside its peers, in one run.

Keys of the report: ``subject``, ``options`` (the command line), ``ranks``, ``cores``, ``pinned``,
``oversubscribed``, ``machine`` (see ``bench.machine``), ``left_out`` (lines), and one list of rows (see
``bench.table``) for each table of the subject.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repurpose_hpc.bench import machine
from repurpose_hpc.bench.peers import Peers
from repurpose_hpc.bench.placement import Placement
from repurpose_hpc.bench.table import BenchTable
from repurpose_hpc.bench.turns import REPEATS
from repurpose_hpc.commands.parser import Parser, add_batches, add_dtype, integers, positive
from repurpose_hpc.commands.table import described
from repurpose_hpc.errors import UserError
from repurpose_hpc.io.atomic import check_writable
from repurpose_hpc.mpi.agreement import collectively
from repurpose_hpc.mpi.launch import library_name
from repurpose_hpc.plan.plan import PARTITIONED, REPLICATED
from repurpose_hpc.process.threads import threads
from repurpose_hpc.report import text as report

if TYPE_CHECKING:
    from mpi4py import MPI

    from repurpose_hpc.commands.start import RankContext

KERNELS, EXCHANGE, INFERENCE = "kernels", "exchange", "inference"


def run(args: argparse.Namespace, context: RankContext) -> None:
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
    if comm.rank == 0:
        print(machine.render(result["machine"]), _ranks(result), sep="\n", flush=True)
    tables = _measure(args, placement, peers, comm)
    result["left_out"] = peers.left_out
    with collectively(comm):
        if comm.rank == 0 and args.report is not None:
            report.write(args.report, result | {table.name: table.rows for table in tables})


def _circumstances(args: argparse.Namespace, placement: Placement, context: RankContext) -> dict[str, Any]:
    """The keys of the report that are no measurements."""
    return {
        "subject": args.subject,
        "options": {name: value for name, value in vars(args).items() if name not in ("subject", "report")},
        "ranks": context.comm.size,
        "cores": placement.physical,
        "pinned": placement.pinned,
        "oversubscribed": placement.oversubscribed,
        "machine": machine.describe(library_name(context.library)),
    }


def parse(argv: Sequence[str], ranks: int, speaks: bool) -> argparse.Namespace:
    """The command line.

    Raises:
        UsageError: it is wrong, or does not fit the number of ranks.
    """
    args = make_parser(speaks).parse_args(argv)
    if threads() != "1":
        raise UserError(
            f"expected one thread per rank, found {threads()} in the environment; leave OMP_NUM_THREADS and "
            "its like unset: candidates with more threads set them by themselves"
        )
    _check_ranks(args, ranks)
    return args


def make_parser(speaks: bool) -> Parser:
    """The parser, with one of its own for each subject."""
    parser = Parser(speaks=speaks, **described("bench"))
    subjects = parser.add_subparsers(dest="subject", required=True, parser_class=_subparser(speaks))
    for name, help_text, add_options in _SUBJECTS:
        subject = subjects.add_parser(name, help=help_text, description=help_text)
        add_options(subject)
        subject.add_argument(
            "--repeat",
            type=positive,
            default=REPEATS,
            metavar="N",
            help="timed calls of each candidate; a tenth where one takes long (default %(default)s)",
        )
        subject.add_argument(
            "--report", "--out", type=Path, metavar="FILE.json", help="the results, for scripts"
        )
    return parser


def _check_ranks(args: argparse.Namespace, ranks: int) -> None:
    if args.subject == KERNELS and ranks > 1:
        raise UserError(f"kernels: expected one process, found {ranks} ranks; start it without mpirun")
    if args.subject == EXCHANGE and ranks == 1:
        raise UserError("exchange: expected 2 ranks or more, found 1; start it with mpirun -n 2")
    if args.subject == EXCHANGE and any(size % 4 for size in args.bytes):
        raise UserError(f"--bytes: expected multiples of 4, found {args.bytes}: numbers of float32 are sent")
    if args.subject == INFERENCE and any(width % ranks for width in args.widths):
        raise UserError(
            f"--widths: expected multiples of the {ranks} ranks, found {args.widths}: all_gather "
            "of peers wants equal parts"
        )


def _measure(
    args: argparse.Namespace, placement: Placement, peers: Peers, comm: MPI.Intracomm
) -> list[BenchTable]:
    if args.subject == KERNELS:
        from repurpose_hpc.bench import kernels

        return kernels.run(args.sizes, args.repeat, peers)
    if args.subject == EXCHANGE:
        from repurpose_hpc.bench import exchange

        return exchange.run(args.bytes, args.repeat, placement, peers, comm)
    from repurpose_hpc.bench import inference

    return inference.run(args, placement, peers, comm)


def _subparser(speaks: bool) -> type[Parser]:
    """``Parser`` as argparse makes those of subcommands, which know of no ``speaks``."""

    class Subparser(Parser):
        def __init__(self, **kwargs) -> None:
            super().__init__(speaks=speaks, **kwargs)

    return Subparser


def _ranks(result: dict) -> str:
    where = "pinned to a core each" if result["pinned"] else "not pinned"
    over = "; OVERSUBSCRIBED: times are not those of so many cores" if result["oversubscribed"] else ""
    return f"ranks: {result['ranks']} on {result['cores']} cores, {where}{over}"


def _kernel_options(parser: Parser) -> None:
    parser.add_argument(
        "--sizes",
        type=integers,
        default=(1024, 2048, 4096, 8192),
        metavar="N,N,...",
        help="rows and columns of the weights (default 1024,2048,4096,8192)",
    )


def _exchange_options(parser: Parser) -> None:
    parser.add_argument(
        "--bytes",
        type=integers,
        default=tuple(4 << shift for shift in range(0, 19, 2)),
        metavar="B,B,...",
        help="bytes per pair of ranks, multiples of 4 (default 4, 16, ... 1048576)",
    )


def _inference_options(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--widths",
        type=integers,
        default=(1024, 4096, 8192),
        metavar="N,N,...",
        help="neurons of each layer (default 1024,4096,8192)",
    )
    add_batches(parser)
    add(
        "--comm-budget",
        type=float,
        default=0.05,
        metavar="F",
        help="fraction of the dense communication that is left (default %(default)s)",
    )
    add(
        "--input-placement",
        choices=(REPLICATED, PARTITIONED),
        default=REPLICATED,
        help="who has the input: every rank all of it, or its block (default %(default)s)",
    )
    add_dtype(parser)


_SUBJECTS = (
    (KERNELS, "products with one block of weights, in one process", _kernel_options),
    (EXCHANGE, "the exchange alone, with two ranks or more", _exchange_options),
    (INFERENCE, "four layers, end to end", _inference_options),
)
