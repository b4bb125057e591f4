"""Every command of the package: ``python -m repurpose_hpc COMMAND``, ``repurpose-hpc COMMAND``."""

from __future__ import annotations

import sys

from repurpose_hpc.mpi.guard import guarded_start


def main() -> None:
    """Run the command that the first word of ``sys.argv`` names; without words, list the commands."""
    with guarded_start():
        from repurpose_hpc.commands.start import start

        name, *words = sys.argv[1:] or ["--help"]
        start(name, words)


if __name__ == "__main__":
    main()
