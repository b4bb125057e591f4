"""Show what a model is made of: ``python -m repurpose_hpc.inspect MODEL``."""

from repurpose_hpc.inspect_command import main

if __name__ == "__main__":
    main()
