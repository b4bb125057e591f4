"""The command ``restructure``: from a command line to shards and a report.

Without a launcher MPI is not even started, and threads share the work.  Under ``mpirun`` the ranks do.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repurpose_hpc.commands.parser import Parser, add_dtype, add_restructure_options, restructure_options
from repurpose_hpc.commands.start import Context, RankContext
from repurpose_hpc.commands.table import described

if TYPE_CHECKING:
    from mpi4py import MPI

    from repurpose_hpc.io.samples import Samples
    from repurpose_hpc.model.network import Network
    from repurpose_hpc.restructure.team import Team


def run(args: argparse.Namespace, context: Context) -> None:
    """Run the command; collective under a launcher.

    Args:
        args: see ``parse``.
        context: of the start.

    Raises:
        UserError: in one process: the files do not fit, or a result cannot be written.
        SystemExit: on every rank, after one message.
    """
    if isinstance(context, RankContext):
        _run_together(args, context.comm)
    else:
        _run_alone(args, context.threads)


def _run_alone(args: argparse.Namespace, threads: int) -> None:
    from repurpose_hpc.restructure.team import Team

    network, samples = _open(args, root=True)
    _finish(args, _restructure(args, network, samples, Team(threads=threads)))


def _run_together(args: argparse.Namespace, comm: MPI.Comm) -> None:
    """All ranks read and restructure; what only the root does is agreed on by all."""
    from repurpose_hpc.mpi.agreement import alike, collectively
    from repurpose_hpc.restructure.team import Team

    with collectively(comm):
        network, samples = _open(args, comm.rank == 0)
    with alike(comm):
        result = _restructure(args, network, samples, Team(comm))
    with collectively(comm):
        if comm.rank == 0:
            _finish(args, result)


def _open(args: argparse.Namespace, root: bool) -> tuple[Network, Samples]:
    # Imported after the command line is known to be right: SciPy takes its time.
    from repurpose_hpc.io.atomic import check_writable
    from repurpose_hpc.io.samples import open_samples
    from repurpose_hpc.model.importers.load import load_model

    if args.report is not None and root:
        check_writable(args.report)
    return load_model(args.model), open_samples(args.calibration)


def _restructure(args: argparse.Namespace, network: Network, samples: Samples, team: Team) -> dict:
    import numpy as np

    from repurpose_hpc.io.progress import Progress
    from repurpose_hpc.restructure.job import restructure_to

    log = Progress(speaks=team.rank == 0)
    return restructure_to(args.out, network, samples, args.options, np.dtype(args.dtype).type, log, team)


def _finish(args: argparse.Namespace, result: dict) -> None:
    from repurpose_hpc.report import text as report
    from repurpose_hpc.restructure.job import summary

    print(summary(result), flush=True)
    if args.report is not None:
        report.write(args.report, result)


def parse(argv: Sequence[str], ranks: int | None = None, speaks: bool = True) -> argparse.Namespace:
    """The command line, with ``options`` made from it.

    Raises:
        UsageError: it is wrong.
    """
    parser = make_parser(speaks)
    args = parser.parse_args(argv)
    if args.calibration is None:
        parser.error("expected --calibration DATA, samples like those that the network will see")
    if args.workers is None and ranks is None:
        parser.error("expected --workers P, the number of parts")
    args.options = restructure_options(args, ranks or args.workers)
    return args


def make_parser(speaks: bool) -> Parser:
    """The parser, without what ``parse`` checks."""
    parser = Parser(speaks=speaks, **described("restructure"))
    parser.add_argument("model", type=Path, metavar="MODEL", help=".npz, .safetensors or .onnx")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets the plan and the shards")
    add_dtype(parser, "of the shards")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="the report, for scripts")
    add_restructure_options(parser)
    return parser
