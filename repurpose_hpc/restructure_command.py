"""The command ``restructure``: from a command line to shards and a report.

Without a launcher MPI is not even started.  Under ``mpirun`` rank 0 restructures and the others sleep
until it has finished, so that a batch script may use one launcher for everything.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from repurpose_hpc.threads import all_cores, one_thread_per_rank


def main() -> None:
    """Run the command of ``sys.argv``."""
    from repurpose_hpc.runtime.launch import launched

    if launched(os.environ)[0] > 1:
        _run_on_root()
    else:
        _run_alone()


def _run_alone() -> None:
    from repurpose_hpc.runtime.agreement import alone

    with alone():
        run(sys.argv[1:], ranks=None)


def _run_on_root() -> None:
    one_thread_per_rank()  # before anything imports NumPy
    from mpi4py import MPI

    from repurpose_hpc.runtime.agreement import aborting, collectively
    from repurpose_hpc.runtime.launch import check_launch

    comm = MPI.COMM_WORLD
    with aborting(comm, []), collectively(comm):
        check_launch(comm.size, MPI.Get_library_version())
        if comm.rank == 0:
            run(sys.argv[1:], comm.size)


def run(argv: list[str], ranks: int | None) -> None:
    """Run the command in this process.

    Args:
        argv: without the program's name.
        ranks: of the job, the default for ``--workers``; None: there is no job.

    Raises:
        UserError: a wrong command line (status 2), or anything that keeps it from writing the shards.
    """
    args = parse(argv, ranks)
    # Imported after the command line is known to be right: SciPy takes its time.
    import numpy as np

    from repurpose_hpc import report
    from repurpose_hpc.data import open_samples
    from repurpose_hpc.model.load import load_model
    from repurpose_hpc.restructure.job import restructure_to, summary
    from repurpose_hpc.runtime.files import check_writable

    if args.report is not None:
        check_writable(args.report)
    network, samples = load_model(args.model), open_samples(args.calibration)
    with all_cores():
        result = restructure_to(args.out, network, samples, args.options, np.dtype(args.dtype).type, log)
    print(summary(result), flush=True)
    if args.report is not None:
        report.write(args.report, result)


def parse(argv: list[str], ranks: int | None) -> argparse.Namespace:
    """The command line, with ``options`` made from it.

    Raises:
        UsageError: it is wrong.
    """
    from repurpose_hpc.options import Parser, add_restructure_options, restructure_options

    parser = Parser(
        speaks=True,
        prog="repurpose_hpc.restructure",
        description="Restructure a trained network for P workers and write one HDF5 shard for each.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help=".npz, .safetensors or .onnx")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets the plan and the shards")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="of the shards")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="the report, for scripts")
    add_restructure_options(parser)
    args = parser.parse_args(argv)
    if args.calibration is None:
        parser.error("expected --calibration DATA, samples like those that the network will see")
    if args.workers is None and ranks is None:
        parser.error("expected --workers P, the number of parts")
    args.options = restructure_options(args, ranks)
    return args


def log(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)
