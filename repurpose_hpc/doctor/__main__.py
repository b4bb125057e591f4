"""Say what a job would run on, and what would go wrong: ``mpirun -n R python -m repurpose_hpc.doctor``."""

from __future__ import annotations

import sys
import time

from repurpose_hpc.threads import one_thread_per_rank


def main() -> None:
    """Run the command of ``sys.argv``; see ``repurpose_hpc.doctor.command``."""
    one_thread_per_rank()  # before anything imports NumPy
    began = time.perf_counter()
    from mpi4py import MPI

    # What infer imports, to see how long that takes here.
    import repurpose_hpc.infer_command  # noqa: F401
    from repurpose_hpc.doctor.command import run
    from repurpose_hpc.runtime.agreement import aborting

    import_seconds = time.perf_counter() - began
    with aborting(MPI.COMM_WORLD, []):
        run(sys.argv[1:], MPI.COMM_WORLD, MPI.Get_library_version(), import_seconds)


if __name__ == "__main__":
    main()
