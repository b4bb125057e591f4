"""Make the environment and run every test: unit tests, commands, then MPI at 1, 2, 3, 4 and 8 ranks.

The last line is ``N passed, N failed``; the status is 0 only if every stage passed.
"""

import os
import re
import selectors
import subprocess
import sys

import environment

RANKS = (1, 2, 3, 4, 8)
# Processes of pytest-xdist that share the unit tests.
WORKERS = ("-n", "2", "--dist", "worksteal")
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
    options = parser.parse_args()
    environment.prepare({"test"}, options.mpi)
    environment.install(options.packages)
    passed = failed = 0
    for name, command in stages():
        print(f"\n##### {name}: {' '.join(command)}", flush=True)
        output, problem = run_stage(command)
        stage_passed, stage_failed = count(output)
        if not problem and stage_passed == 0:
            problem = "no test passed, or no summary of pytest was found"
        if problem:
            print(f"##### {name} FAILED: {problem}", flush=True)
            stage_failed = max(stage_failed, 1)
        passed += stage_passed
        failed += stage_failed
    print(f"\n{passed} passed, {failed} failed")
    sys.exit(failed > 0)


def stages() -> list[tuple[str, list[str]]]:
    """Name and command line of every stage."""
    pytest = ["-m", "pytest", "--color=no"]
    alone = [str(environment.PYTHON), *pytest, "-m", "not mpi"]
    on_ranks = [*pytest, "--with-mpi", "-m", "mpi", "tests/mpi"]
    return [
        ("unit tests", [*alone, *WORKERS, "tests/unit"]),
        # They start processes, of which some are timed.
        ("tests of commands", [*alone, "--ignore=tests/unit"]),
        *(
            (f"MPI tests, ranks: {n}", [*environment.mpi_command(environment.PYTHON, n), *on_ranks])
            for n in RANKS
        ),
    ]


def run_stage(command: list[str]) -> tuple[str, str]:
    """Run ``command``, passing its output on.

    Returns:
        the output, and what went wrong: empty if the command ended with status 0.
    """
    process = subprocess.Popen(
        command,
        cwd=environment.ROOT,
        # Eight ranks of eight BLAS threads each would trample on each other.
        env={"OMP_NUM_THREADS": "1", **environment.mpi_environment()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
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
