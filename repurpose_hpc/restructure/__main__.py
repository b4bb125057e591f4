"""Restructure a network: ``python -m repurpose_hpc.restructure MODEL --calibration DATA --out DIR``."""

from repurpose_hpc.commands.restructure import main

if __name__ == "__main__":
    main()
