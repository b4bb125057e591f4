"""Compare methods: ``python -m repurpose_hpc.study MODEL --calibration DATA --test DATA ... --out DIR``."""

from repurpose_hpc.study.command import main

if __name__ == "__main__":
    main()
