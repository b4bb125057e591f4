"""Run a restructured network over MPI: ``mpirun -n R python -m repurpose_hpc.infer``."""

from __future__ import annotations

import sys

from repurpose_hpc.mpi.guard import guarded_start


def main() -> None:
    """Run the command ``infer`` with the words of ``sys.argv``."""
    with guarded_start():
        from repurpose_hpc.commands.start import start

        start("infer", sys.argv[1:])


if __name__ == "__main__":
    main()
