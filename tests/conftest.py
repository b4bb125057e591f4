"""What the tests share: launching real commands under mpirun, and ranks that agree on failures."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]

import environment  # noqa: E402  (scripts/environment.py)

from helpers import tiers  # noqa: E402

# Each launcher sets one of them.
RANK = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")

# All ranks must draw the same examples, and none may trip over another's database.
settings.register_profile("ranks", derandomize=True, deadline=None, database=None)
settings.register_profile("fast", settings.get_profile("ranks"), max_examples=tiers.EXAMPLES)
settings.load_profile("ranks")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The fast tier, as ``scripts/dev.py fast`` runs it, and the ranks of MPI tests asked for by file."""
    parser.addoption(
        "--fast", action="store_true", help="few examples and parameter sets, and no test that is slow or mpi"
    )
    parser.addoption(
        "--ranks", type=int, default=3, help="of the mpirun that files of tests/mpi are given (default: 3)"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Run files of tests/mpi under an mpirun of their own, where nothing else is asked for."""
    is_elsewhere = config.option.with_mpi or config.option.fast or any(name in os.environ for name in RANK)
    only_looks = config.option.collectonly or config.option.help or config.option.version
    asked = [config.invocation_params.dir / argument.split("::")[0] for argument in config.args]
    if is_elsewhere or only_looks or not all(path.is_relative_to(ROOT / "tests/mpi") for path in asked):
        return None
    launcher = environment.mpi_command(Path(sys.executable), config.option.ranks)
    command = [*launcher, "-m", "pytest", "--with-mpi", "-m", "mpi", *config.invocation_params.args]
    print(" ".join(map(str, command)), flush=True)
    env = {"OMP_NUM_THREADS": "1", **environment.mpi_environment(config.option.ranks)}
    return subprocess.run(command, env=env).returncode


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is slow; keep what is fast if that is asked for."""
    tiers.mark_slow(items)
    if config.getoption("--fast"):
        fast, others = tiers.fast_tier(items)
        config.hook.pytest_deselected(items=others)
        items[:] = fast


@pytest.fixture(scope="session")
def mpirun():
    """A function ``mpirun(n, *args, env=None, timeout=120) -> CompletedProcess``.

    It runs ``mpirun -n N python ARGS`` with the launcher of the MPI that mpi4py loads here, from
    this checkout (PYTHONPATH), with ``env`` added to the environment.  stdout and stderr are
    captured as text.  A run longer than ``timeout`` seconds is killed and fails the test.  For
    serial tests only: an MPI job cannot start another one.
    """
    return _mpirun


def _mpirun(
    n: int, *args: object, env: dict[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    command = [*environment.mpi_command(Path(sys.executable), n), *map(str, args)]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    try:
        return environment.run(
            command, {**environment.mpi_environment(n), "PYTHONPATH": path, **(env or {})}, timeout
        )
    except subprocess.TimeoutExpired as hang:
        pytest.fail(f"{hang}\n{hang.stdout}\n{hang.stderr}")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Under mpirun: one terminal report, rank 0's, and agreement on every test."""
    if config.getoption("--fast"):
        settings.load_profile("fast")
    if config.getoption("--with-mpi"):
        from mpi4py import MPI

        config.pluginmanager.register(RankAgreement(MPI.COMM_WORLD))
        if MPI.COMM_WORLD.rank > 0:
            config.pluginmanager.unregister(name="terminalreporter")


class RankAgreement:
    """A test that fails on one rank fails on every rank.

    After each test every rank gathers the outcome of all.  A rank whose test failed has left the
    test's communication, so the others may wait for it for ever: it gives them ``GRACE_SECONDS``
    to end the test, then it aborts the job.
    """

    GRACE_SECONDS = 20

    def __init__(self, comm) -> None:
        self.comm = comm.Dup()  # its messages must not match those of a test
        self.failed = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if report.failed:
            self.failed = True
            self.tell(f"FAILED {report.nodeid} ({report.when})\n{report.longreprtext}")
        if report.when == "teardown":
            failed_ranks = self.gather_failures()
            if failed_ranks and not self.failed:
                report.outcome = "failed"
                report.longrepr = f"failed on ranks {failed_ranks}; their messages are above"
            self.failed = False
        return report

    def pytest_collectreport(self, report) -> None:
        if report.failed:
            self.tell(f"cannot collect {report.nodeid}\n{report.longreprtext}")

    def gather_failures(self) -> list[int]:
        """The ranks on which the test that just ended failed."""
        mine, outcomes = bytearray([self.failed]), bytearray(self.comm.size)
        request = self.comm.Iallgather(mine, outcomes)
        deadline = time.monotonic() + self.GRACE_SECONDS
        while not request.Test():
            time.sleep(0.001)
            if self.failed and time.monotonic() > deadline:
                self.tell(f"the other ranks still wait after {self.GRACE_SECONDS} s: aborting the job")
                self.comm.Abort(1)
        return [rank for rank, failed in enumerate(outcomes) if failed]

    def tell(self, message: str) -> None:
        print(f"\n[rank {self.comm.rank}] {message}", file=sys.stderr, flush=True)
