"""Restructure a network: ``python -m repurpose_hpc.restructure MODEL --calibration DATA --out DIR``."""

from repurpose_hpc.process.threads import one_thread_per_rank

if __name__ == "__main__":
    one_thread_per_rank()  # before anything imports NumPy
    from repurpose_hpc.commands.restructure import main

    main()
