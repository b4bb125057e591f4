"""Programs on several ranks, started by a process that is none of them."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from repurpose_hpc.errors import PREFIX, UserError
from repurpose_hpc.mpi.launch import pmi
from repurpose_hpc.process.system import ending_with

# More ranks than cores are marked, not refused: Open MPI 4, and 5.
_OVERSUBSCRIBE = {
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def launcher_words(launcher: str, ranks: int) -> list[str]:
    """The launcher's part of a command line: for ``mpirun``, ``srun``, or what the user says.

    Args:
        launcher: one of these names, or a command line; ``-n RANKS`` is added, or put where it says
            ``{ranks}``.
        ranks: how many to start.
    """
    if launcher == "mpirun":
        return [_mpirun(), "-n", str(ranks)]
    if launcher == "srun":
        cpus = os.environ.get("SLURM_CPUS_PER_TASK", "1")
        return ["srun", f"--mpi={pmi(_library())}", f"--cpus-per-task={cpus}", "-n", str(ranks)]
    words = shlex.split(launcher)
    if "{ranks}" in launcher:
        return [word.replace("{ranks}", str(ranks)) for word in words]
    return [*words, "-n", str(ranks)]


def launch(command: list[str], timeout: float) -> tuple[int, str]:
    """Run a command; all that it has started ends with it, and it ends with this process.

    Args:
        command: its words.
        timeout: seconds.

    Returns:
        exit status and output, stdout and stderr together.

    Raises:
        UserError: it cannot be started, or takes longer.
    """
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
            preexec_fn=ending_with(os.getpid()),  # noqa: PLW1509
        )
    except OSError as error:
        raise UserError(f"cannot start {command[0]}: {error}; check --launcher") from None
    with process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise UserError(f"not finished after {timeout:g} s; see --timeout") from None
        finally:
            _stop(process)
    return process.returncode, output


def reason(output: str) -> str:
    """The program's own message in its output, or the last lines of whatever there is."""
    for line in output.splitlines():
        if PREFIX in line:
            return line.partition(PREFIX)[2]
    return " / ".join(output.strip().splitlines()[-3:]) or "no output"


def _mpirun() -> str:
    """The launcher of the MPI that mpi4py loads: that of this environment, if there is one."""
    inside = Path(sys.prefix) / "bin" / "mpirun"
    return str(inside) if inside.exists() else shutil.which("mpirun") or "mpirun"


def _library() -> str:
    import mpi4py

    mpi4py.rc.initialize = False  # srun starts the ranks; this process is none of them
    from mpi4py import MPI

    return MPI.Get_library_version()


def _stop(process: subprocess.Popen) -> None:
    """End a process, the leader of its session, and what it has started."""
    # SIGTERM first: launchers pass it on to ranks that they put into other process groups.
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(subprocess.TimeoutExpired, ProcessLookupError):
            os.killpg(process.pid, number)
            process.wait(timeout=10)
