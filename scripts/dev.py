"""What to run while working on the code: ``python3 scripts/dev.py fast | lint | types | replay BASE``.

Everything runs in the virtual environment that is active, else in ``.venv``, which is made first
(``environment``).  The exit status is 0 only if all is well.
"""

import os
import subprocess
import sys
from pathlib import Path

import environment

SCRIPTS = environment.ROOT / "scripts"


def main() -> None:
    """Run the subcommand that the command line names."""
    parser = environment.argument_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    replay_parser = commands.add_parser(
        "replay",
        help="compare shards and outputs of eight networks with those of a commit, bit for bit",
    )
    replay_parser.add_argument("base", metavar="BASE", help="commit to compare with")
    options = parser.parse_args()
    sys.exit(replay(python(options.mpi), options.base))


def python(mpi: str) -> Path:
    """The Python of the active virtual environment, else that of ``.venv``, complete."""
    if sys.prefix != sys.base_prefix:
        return Path(sys.executable)
    environment.prepare({"test"}, mpi)
    return environment.PYTHON


def replay(python: Path, base: str) -> int:
    """Compare the working tree with the commit ``base``; returns the exit status."""
    env = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    return subprocess.run([python, "-m", "replay", base], env=env).returncode


if __name__ == "__main__":
    main()
