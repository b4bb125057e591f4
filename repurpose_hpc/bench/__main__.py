"""Measure speed beside peers: ``[mpirun -n P] python -m repurpose_hpc.bench kernels|exchange|inference``."""

from repurpose_hpc.start import run_on_ranks

if __name__ == "__main__":
    run_on_ranks("repurpose_hpc.bench.command")
