"""Every command of the package: ``python -m repurpose_hpc COMMAND``."""

from __future__ import annotations

import sys
from importlib import import_module

from repurpose_hpc.commands import start
from repurpose_hpc.process.threads import one_thread_per_rank


def main() -> None:
    """Run the command that the first word of ``sys.argv`` names."""
    one_thread_per_rank()  # before anything imports NumPy
    command = sys.argv.pop(1)
    if command in ("bench", "probe", "point"):
        start.run_on_ranks(f"repurpose_hpc.commands.{command}")
    else:
        import_module(f"repurpose_hpc.commands.{command}").main()


if __name__ == "__main__":
    main()
