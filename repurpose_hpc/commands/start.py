"""How commands start: in one process, or on all ranks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

from repurpose_hpc.process.system import release_code
from repurpose_hpc.process.threads import one_thread_per_rank


def ready_numba() -> None:
    """Import Numba, make its part of every compilation, and let the compiler's code go.

    Making that part takes most of LLVM's code, about 50 MB of every process; loading a kernel afterwards
    takes 9.  So it is done before anything else is in memory.
    """
    _numba_without_scipy()
    with suppress(ImportError, AttributeError):  # Numba's own affair; without it the peak is higher
        # What is done before the first kernel is compiled or loaded.
        import_module("numba.core.registry").cpu_target.typing_context.refresh()
    release_code("libllvmlite")


def _numba_without_scipy() -> None:
    """Import Numba in such a way that it does not import SciPy, if that is not there yet.

    Before its first kernel Numba imports scipy.linalg to see whether kernels could use it; none here does.
    On every rank that would be more than a hundred modules.  Who imports SciPy later gets it.
    """
    if "scipy" in sys.modules:
        return
    sys.modules["scipy"] = None
    try:
        with suppress(ImportError):
            import_module("numba.np.arraymath")  # what tries the import
    finally:
        del sys.modules["scipy"]


def run_alone(run: Callable[[list[str]], None]) -> None:
    """Run a command with the words of ``sys.argv`` in this process, which must be alone."""
    one_thread_per_rank()  # before anything imports NumPy
    from repurpose_hpc.mpi.agreement import alone
    from repurpose_hpc.mpi.launch import check_alone

    with alone():
        check_alone()
        run(sys.argv[1:])


def run_on_ranks(command: str) -> None:
    """Run the function ``run`` of the module ``command`` on every rank of the job; collective."""
    one_thread_per_rank()  # before anything imports NumPy
    from mpi4py import MPI

    from repurpose_hpc.mpi.agreement import aborting

    run = import_module(command).run
    with aborting(MPI.COMM_WORLD, []):
        run(sys.argv[1:], MPI.COMM_WORLD, MPI.Get_library_version())
