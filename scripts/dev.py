"""Checks to run while working on the code: ``python3 scripts/dev.py fast | lint | types | replay BASE``.

All run in the virtual environment that is active, if the tools are there, else in ``.venv``, which is made
first.  The exit status is 0 only if all is well.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import environment

ROOT = environment.ROOT
TOOLS = (
    "codespell_lib",
    "h5py",
    "hypothesis",
    "mpi4py",
    "mypy",
    "numba",
    "onnx",
    "pytest",
    "pytest_mpi",
    "ruff",
    "xdist",
)
# Errors of mypy that there may still be; only ever made smaller.
TYPE_ERRORS = 0


def main() -> None:
    """Run the subcommand that the command line names."""
    options = _parser().parse_args()
    sys.exit(options.run(_python(options.mpi), options))


def fast(python: Path, options: argparse.Namespace) -> int:
    """Run the tests that take little: no processes, few examples, few of many parameters."""
    command = [python, "-m", "pytest", "--fast", "-q", "-n", "2", "--dist", "worksteal", *options.arguments]
    return _run(command, OMP_NUM_THREADS="1")


def lint(python: Path, options: argparse.Namespace) -> int:
    """Check style, format and spelling."""
    commands = (["ruff", "check"], ["ruff", "format", "--check"], ["codespell_lib", *_files_of_ours()])
    return max([_run([python, "-m", *command]) for command in commands])


def types(python: Path, options: argparse.Namespace) -> int:
    """Check the types of package and kernels."""
    output = _mypy(python)
    errors = output.count(": error: ")
    print(f"{output}types: {errors} errors, {TYPE_ERRORS} allowed")
    if errors < TYPE_ERRORS:
        print("lower TYPE_ERRORS in scripts/dev.py")
    return errors > TYPE_ERRORS


def replay(python: Path, options: argparse.Namespace) -> int:
    """Compare shards and outputs of eight networks with those by a commit, bit for bit."""
    return _run([python, "-m", "replay", options.base], PYTHONPATH=str(ROOT / "scripts"))


def _parser() -> argparse.ArgumentParser:
    parser = environment.argument_parser(__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (fast, lint, types, replay):
        commands.add_parser(command.__name__, help=command.__doc__).set_defaults(run=command)
    further = {"nargs": argparse.REMAINDER, "metavar": "...", "help": "for pytest, such as a file of tests"}
    commands.choices["fast"].add_argument("arguments", **further)
    commands.choices["replay"].add_argument("base", metavar="BASE", help="commit to compare with")
    return parser


def _python(mpi: str) -> Path:
    """The Python of the active environment if it has the tools, else that of ``.venv``, complete."""
    if sys.prefix != sys.base_prefix and all(map(importlib.util.find_spec, TOOLS)):
        return Path(sys.executable)
    environment.prepare({"test"}, mpi)
    return environment.python(environment.VENV)


def _run(command: list, **variables: str) -> int:
    """Run ``command`` in the checkout; returns its status."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run([*map(str, command)], cwd=ROOT, env=env).returncode


def _files_of_ours() -> list[str]:
    """Files that git tracks, but for data."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.splitlines() if not name.endswith((".npz", ".onnx", ".data", ".png"))]


def _mypy(python: Path) -> str:
    """The output of mypy for the package, with its kernels as a part of it, as they are when installed."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "repurpose_hpc"
        package.mkdir()
        for path in (ROOT / "kernels", *(ROOT / "repurpose_hpc").iterdir()):
            (package / path.name).symlink_to(path)
        config = ["--config-file", ROOT / "pyproject.toml", "--cache-dir", ROOT / "build" / "mypy"]
        command = [python, "-m", "mypy", *config, "-p", "repurpose_hpc"]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    if done.returncode > 1:
        sys.exit(f"mypy ended with status {done.returncode}\n{done.stdout}")
    return done.stdout.replace("repurpose_hpc/kernels/", "kernels/")


if __name__ == "__main__":
    main()
