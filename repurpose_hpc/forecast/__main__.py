"""Forecast the time of an inference: ``python -m repurpose_hpc.forecast SHARDS|MODEL --machine FILE``."""

from repurpose_hpc.forecast.command import main

if __name__ == "__main__":
    main()
