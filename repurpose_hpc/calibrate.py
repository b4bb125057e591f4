"""Measure this machine for forecasts: ``mpirun -n R python -m repurpose_hpc.calibrate``."""

from __future__ import annotations

import sys

from repurpose_hpc.threads import one_thread_per_rank


def main() -> None:
    """Run the command of ``sys.argv``; see ``repurpose_hpc.calibrate_command``."""
    one_thread_per_rank()  # before anything imports NumPy
    from mpi4py import MPI

    from repurpose_hpc.calibrate_command import run
    from repurpose_hpc.runtime.agreement import aborting

    with aborting(MPI.COMM_WORLD, []):
        run(sys.argv[1:], MPI.COMM_WORLD, MPI.Get_library_version())


if __name__ == "__main__":
    main()
