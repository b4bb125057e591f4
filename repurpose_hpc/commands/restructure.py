"""The command ``restructure``: from a command line to shards and a report.

Without a launcher MPI is not even started, and threads share the work.  Under ``mpirun`` the ranks do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repurpose_hpc.commands.parser import Parser, make, restructure_options
from repurpose_hpc.fields import Declared, option, path, precision, report_file
from repurpose_hpc.process.threads import free_threads, one_thread_per_rank
from repurpose_hpc.restructure.options import Options

if TYPE_CHECKING:
    from repurpose_hpc.io.samples import Samples
    from repurpose_hpc.model.network import Network
    from repurpose_hpc.restructure.team import Team


def main() -> None:
    """Run the command of ``sys.argv``."""
    one_thread_per_rank()  # before anything imports NumPy
    from repurpose_hpc.mpi.launch import launched

    if launched(os.environ)[0] > 1:
        _run_together()
    else:
        _run_alone()


def _run_alone() -> None:
    from repurpose_hpc.mpi.agreement import alone
    from repurpose_hpc.restructure.team import Team

    with alone():
        args = parse(sys.argv[1:], ranks=None, speaks=True)
        network, samples = _open(args, root=True)
        _finish(args, _restructure(args, network, samples, Team(threads=free_threads())))


def _run_together() -> None:
    """All ranks parse, read and restructure; what only the root does is agreed on by all."""
    from mpi4py import MPI

    from repurpose_hpc.mpi.agreement import aborting, alike, collectively
    from repurpose_hpc.mpi.launch import check_launch
    from repurpose_hpc.restructure.team import Team

    comm = MPI.COMM_WORLD
    with aborting(comm, []):
        with collectively(comm):
            check_launch(comm.size, MPI.Get_library_version())
            args = parse(sys.argv[1:], comm.size, speaks=comm.rank == 0)
            network, samples = _open(args, comm.rank == 0)
        with alike(comm):
            result = _restructure(args, network, samples, Team(comm))
        with collectively(comm):
            if comm.rank == 0:
                _finish(args, result)


def _open(args: Arguments, root: bool) -> tuple[Network, Samples]:
    # Imported after the command line is known to be right: SciPy takes its time.
    from repurpose_hpc.io.atomic import check_writable
    from repurpose_hpc.io.samples import open_samples
    from repurpose_hpc.model.importers.load import load_model

    if args.report is not None and root:
        check_writable(args.report)
    return load_model(args.model), open_samples(args.calibration)


def _restructure(args: Arguments, network: Network, samples: Samples, team: Team) -> dict:
    import numpy as np

    from repurpose_hpc.io.progress import Progress
    from repurpose_hpc.restructure.job import restructure_to

    log = Progress(speaks=team.rank == 0)
    return restructure_to(args.out, network, samples, args.options, np.dtype(args.dtype).type, log, team)


def _finish(args: Arguments, result: dict) -> None:
    from repurpose_hpc.report import text as report

    print(report.render_restructured(result), flush=True)
    if args.report is not None:
        report.write(args.report, result)


@dataclass(frozen=True, kw_only=True)
class Arguments(Declared):
    """The files of the command, and with them ``options`` of restructuring."""

    model: Path = option(kind=path("model.npz"), positional=True, help=".npz, .safetensors or .onnx")
    out: Path = option(kind=path("shards"), metavar="DIR", help="gets the plan and the shards")
    calibration: Path = option(
        kind=path("samples.npz"), metavar="DATA", help="samples like those that the network will see"
    )
    dtype: str = precision(help="of the weights in the shards")
    report: Path | None = report_file(help="what was done, for scripts")
    options: Options


def make_parser(speaks: bool) -> Parser:
    """The parser."""
    parser = Parser(
        speaks=speaks,
        prog="repurpose_hpc.restructure",
        description="Restructure a trained network for P workers and write one HDF5 shard for each.",
    )
    parser.add(Arguments)
    parser.add(Options, "restructuring", {"workers": "the number of ranks"})
    return parser


def parse(argv: Sequence[str], ranks: int | None = None, speaks: bool = True) -> Arguments:
    """The command line.

    Args:
        argv: without the program's name.
        ranks: of the job; None: it has none.
        speaks: whether this rank prints the help.

    Raises:
        UsageError: it is wrong.
    """
    given = make_parser(speaks).read(argv)
    return make(Arguments, given, options=restructure_options(given, ranks))
