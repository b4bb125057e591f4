"""Measure scaling: ``python -m repurpose_hpc.scaling strong|weak [MODEL] --ranks 1,2,4,8 ... --out DIR``."""

from repurpose_hpc.scaling.command import main

if __name__ == "__main__":
    main()
