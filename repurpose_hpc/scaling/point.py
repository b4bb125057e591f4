"""One point of a scaling study; ``repurpose_hpc.scaling`` starts it under a launcher."""

from repurpose_hpc.start import run_on_ranks

if __name__ == "__main__":
    run_on_ranks("repurpose_hpc.scaling.point_command")
