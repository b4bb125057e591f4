"""Every command of the package: ``python -m repurpose_hpc COMMAND``, ``repurpose-hpc COMMAND``."""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches

from repurpose_hpc.commands.start import start
from repurpose_hpc.commands.table import COMMANDS, overview
from repurpose_hpc.errors import UsageError
from repurpose_hpc.mpi.agreement import alone
from repurpose_hpc.mpi.launch import launched, refuse


def main() -> None:
    """Run the command that the first word of ``sys.argv`` names; without words, list the commands."""
    name, words = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if name in COMMANDS:
        start(name, words)
    elif name in ("-h", "--help"):
        if launched(os.environ)[1] == 0:
            print(overview())
    else:
        with alone():
            _refuse(name)


def _refuse(name: str) -> None:
    listed = [row.name for row in COMMANDS.values() if row.listed]
    near = get_close_matches(name, listed) or listed
    refuse(
        launched(os.environ)[1],
        UsageError(
            f"expected a command, found {name!r}; did you mean {' or '.join(near)}? repurpose-hpc --help "
            "lists all"
        ),
    )


if __name__ == "__main__":
    main()
