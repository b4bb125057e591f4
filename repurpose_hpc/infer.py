"""Run a restructured network over MPI: ``mpirun -n R python -m repurpose_hpc.infer``."""

from __future__ import annotations

import sys
from pathlib import Path

from repurpose_hpc.commands.start import ready_numba
from repurpose_hpc.process.threads import one_thread_per_rank


def main() -> None:
    """Run the command of ``sys.argv``; see ``repurpose_hpc.infer_command``."""
    one_thread_per_rank()  # before anything imports NumPy
    ready_numba()
    from mpi4py import MPI

    from repurpose_hpc.commands.infer import run
    from repurpose_hpc.mpi.agreement import aborting

    leftovers: list[Path] = []
    with aborting(MPI.COMM_WORLD, leftovers):
        run(sys.argv[1:], MPI.COMM_WORLD, MPI.Get_library_version(), leftovers)


if __name__ == "__main__":
    main()
