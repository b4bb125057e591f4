"""Measure this machine for forecasts: ``mpirun -n R python -m repurpose_hpc.calibrate``."""

from repurpose_hpc.start import run_on_ranks

if __name__ == "__main__":
    run_on_ranks("repurpose_hpc.calibrate_command")
