"""Threads of a process: BLAS has one, the restructuring as many as there are cores.

A launcher starts a rank per core or per socket.  BLAS does not know of the other ranks, takes every
core it sees and slows all of them down, so each rank limits it to one thread.  BLAS libraries read
their environment when NumPy loads them: commands call ``one_thread_per_rank`` first and import
everything else afterwards.

A process that restructures alone has its tasks done by several threads instead: the
result is then the same, bit for bit, as with as many ranks, which BLAS threads do not promise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def one_thread_per_rank() -> int:
    """Limit BLAS to one thread unless the user chose a number; to be called before NumPy is imported.

    Returns:
        the number of threads that may share the tasks of a process that is alone: a core each, or 1 if BLAS
        has them because the user said so.
    """
    if any(name in os.environ for name in _VARIABLES):
        return 1
    os.environ.update(dict.fromkeys(_VARIABLES, "1"))
    return len(os.sched_getaffinity(0))


def threads() -> str:
    """Threads per rank, as the environment says; for reports."""
    return next((os.environ[name] for name in _VARIABLES if name in os.environ), "all cores")


@contextmanager
def using_threads(number: int, read: Callable[[], int], write: Callable[[int], object]) -> Iterator[None]:
    """A block in which a library uses so many threads.

    Args:
        number: of threads.
        read, write: the library's setting.
    """
    previous = read()
    write(number)
    try:
        yield
    finally:
        write(previous)
