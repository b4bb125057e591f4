"""Restructure a network: ``python -m repurpose_hpc.restructure MODEL --calibration DATA --out DIR``."""

from repurpose_hpc.restructure_command import main

if __name__ == "__main__":
    main()
