"""Restructure a network: ``python -m repurpose_hpc.restructure MODEL --calibration DATA --out DIR``."""

import sys

from repurpose_hpc.commands.start import start

if __name__ == "__main__":
    start("restructure", sys.argv[1:])
