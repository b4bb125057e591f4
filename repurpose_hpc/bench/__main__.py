"""Measure speed beside peers: ``[mpirun -n P] python -m repurpose_hpc.bench kernels|exchange|inference``."""

import os

from repurpose_hpc.start import run_on_ranks

if __name__ == "__main__":
    # Numba allows as many threads as it sees cores when it is imported, and a launcher may have bound this
    # rank to one; candidates with more threads are given all later.
    os.environ.setdefault("NUMBA_NUM_THREADS", str(os.cpu_count()))
    run_on_ranks("repurpose_hpc.bench.command")
