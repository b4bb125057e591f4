"""Numba in this process: what has to be settled before it is imported."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module

from repurpose_hpc.process.system import release_code


def allow_all_cores() -> None:
    """Let Numba have as many threads as the machine has cores.

    It allows no more than it sees when it is imported, and a launcher may have bound this rank to one core.
    """
    os.environ.setdefault("NUMBA_NUM_THREADS", str(os.cpu_count()))


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
    sys.modules["scipy"] = None  # type: ignore[assignment]  # so that importing it fails
    try:
        with suppress(ImportError):
            import_module("numba.np.arraymath")  # what tries the import
    finally:
        del sys.modules["scipy"]
