"""Restructure a network: ``python -m repurpose_hpc.restructure MODEL --calibration DATA --out DIR``."""

import sys

from repurpose_hpc.mpi.guard import guarded_start

if __name__ == "__main__":
    with guarded_start():
        from repurpose_hpc.commands.start import start

        start("restructure", sys.argv[1:])
