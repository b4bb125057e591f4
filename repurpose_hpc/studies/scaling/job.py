"""What a scaling study does: shards for every number of ranks, and a launch for each."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from repurpose_hpc.errors import UserError
from repurpose_hpc.mpi.agreement import PREFIX
from repurpose_hpc.mpi.launch import pmi
from repurpose_hpc.restructure.team import Team
from repurpose_hpc.studies.picture import one_line
from repurpose_hpc.studies.scaling.subject import Subject
from repurpose_hpc.studies.scaling.table import Row, Table

Log = Callable[[str], None]

# More ranks than cores are marked, not refused: Open MPI 4, and 5.
_OVERSUBSCRIBE = {
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


@dataclass(frozen=True)
class Launch:
    """How points are started.

    Attributes:
        launcher: see ``command``.
        repeat: most forwards to time.
        seconds: fewer where they take longer.
        timeout: seconds after which a launch has failed.
    """

    launcher: str
    repeat: int
    seconds: float
    timeout: float

    def command(self, ranks: int) -> list[str]:
        """The launcher's part of the command line: ``mpirun``, ``srun``, or what the user says."""
        if self.launcher == "mpirun":
            return [_mpirun(), "-n", str(ranks)]
        if self.launcher == "srun":
            cpus = os.environ.get("SLURM_CPUS_PER_TASK", "1")
            return ["srun", f"--mpi={pmi(_library())}", f"--cpus-per-task={cpus}", "-n", str(ranks)]
        words = shlex.split(self.launcher)
        if "{ranks}" in self.launcher:
            return [word.replace("{ranks}", str(ranks)) for word in words]
        return [*words, "-n", str(ranks)]

    def measure(
        self, shards: Path, ranks: int, batches: Sequence[int], dtype: str, report: Path
    ) -> list[Row]:
        """Run ``scaling.point``.

        Args:
            shards: what to run.
            ranks: how many.
            batches: samples per forward.
            dtype: to compute in.
            report: a file that all ranks can see, for the findings; removed again.

        Returns:
            the findings for each batch size.

        Raises:
            UserError: it failed.
        """
        options = {
            "shards": shards,
            "ranks": ranks,
            "batches": ",".join(map(str, batches)),
            "repeat": self.repeat,
            "seconds": self.seconds,
            "dtype": dtype,
            "report": report,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [*self.command(ranks), sys.executable, "-m", "repurpose_hpc", "point", *words]
        try:
            status, output = _run(command, self.timeout)
            if status or not report.exists():
                raise UserError(f"status {status}: {_reason(output)}")
            return json.loads(report.read_text(encoding="utf-8"))["batches"]
        finally:
            report.unlink(missing_ok=True)


def compute(
    subject: Subject,
    points: Sequence[tuple[int, str]],
    batches: Sequence[int],
    table: Table,
    launch: Launch,
    team: Team,
    log: Log,
) -> int:
    """Fill ``table`` with those points that are not in it, or failed before.

    A point that fails is written down with its message, and the others are measured all the same.

    Args:
        subject: what is measured.
        points: ranks and form, in the order in which to measure them.
        batches: samples per forward.
        table: has every point on disk before the next one begins.
        launch: how points are started.
        team: shares the work of restructuring.
        log: is given the lines of progress.

    Returns:
        how many rows have failed.

    Raises:
        UserError: the table cannot be written.
    """
    failed = 0
    for number, (ranks, form) in enumerate(points, 1):
        missing = [batch for batch in batches if table.find(ranks, form, batch) is None]
        if not missing:
            continue
        name = f"[{number}/{len(points)}] {ranks} ranks, {form}"
        log(name)
        try:
            shards = subject.shards(ranks, form, team, log)
            report = table.path.with_name(f".{ranks}-{form}.{os.getpid()}.tmp")
            rows = launch.measure(shards, ranks, missing, subject.dtype.name, report.absolute())
            outcome = ", ".join(f"{1e3 * row['seconds_median']:.3f} ms for {row['batch']}" for row in rows)
        except Exception as error:
            outcome = one_line(error)
            rows = [{"batch": batch, "error": outcome} for batch in missing]
            failed += len(rows)
        table.put(ranks, form, rows)
        log(f"{name}: {outcome}")
    return failed


def _mpirun() -> str:
    """The launcher of the MPI that mpi4py loads: that of this environment, if there is one."""
    inside = Path(sys.prefix) / "bin" / "mpirun"
    return str(inside) if inside.exists() else shutil.which("mpirun") or "mpirun"


def _library() -> str:
    import mpi4py

    mpi4py.rc.initialize = False  # srun starts the ranks; this process is none of them
    from mpi4py import MPI

    return MPI.Get_library_version()


def _run(command: list[str], timeout: float) -> tuple[int, str]:
    """Exit status and output of a command; all that it has started ends with it."""
    try:
        process = subprocess.Popen(
            command,
            env={**_OVERSUBSCRIBE, **os.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise UserError(f"cannot start {command[0]}: {error}; check --launcher") from None
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise UserError(f"not finished after {timeout:g} s; see --timeout") from None
    finally:
        _stop(process)
    return process.returncode, output


def _stop(process: subprocess.Popen) -> None:
    """End a process, the leader of its session, and what it has started."""
    # SIGTERM first: launchers pass it on to ranks that they put into other process groups.
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(subprocess.TimeoutExpired, ProcessLookupError):
            os.killpg(process.pid, number)
            process.wait(timeout=10)


def _reason(output: str) -> str:
    """The program's own message, or the last lines of whatever there is."""
    for line in output.splitlines():
        if PREFIX in line:
            return line.partition(PREFIX)[2]
    return " / ".join(output.strip().splitlines()[-3:]) or "no output"
