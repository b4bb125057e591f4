"""One point of a scaling study; ``repurpose_hpc.scaling`` starts it under a launcher."""

from __future__ import annotations

import sys

from repurpose_hpc.threads import one_thread_per_rank


def main() -> None:
    """Run the command of ``sys.argv``; see ``repurpose_hpc.scaling.point_command``."""
    one_thread_per_rank()  # before anything imports NumPy
    from mpi4py import MPI

    from repurpose_hpc.runtime.agreement import aborting
    from repurpose_hpc.scaling.point_command import run

    with aborting(MPI.COMM_WORLD, []):
        run(sys.argv[1:], MPI.COMM_WORLD, MPI.Get_library_version())


if __name__ == "__main__":
    main()
