"""How many threads BLAS uses: one per rank, all free cores while the root restructures.

A launcher starts a rank per core or per socket.  BLAS does not know of the other ranks, takes every
core it sees and slows all of them down, so each rank limits it to one thread.  BLAS libraries read
their environment when NumPy loads them: commands call ``one_thread_per_rank`` first and import
everything else afterwards.

While the root restructures, the other ranks sleep.  It raises the limit in the running process
(package threadpoolctl; where that is missing it goes on with one thread).  A child process would do so
without that package, but it starts a program out of an MPI process, which some interconnects
forbid, must be hidden from the launcher's variables, and survives when the job is killed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_limited_by_us = False


def one_thread_per_rank() -> None:
    """Limit BLAS to one thread unless the user chose a number; to be called before NumPy is imported."""
    global _limited_by_us
    if not any(name in os.environ for name in _VARIABLES):
        os.environ.update(dict.fromkeys(_VARIABLES, "1"))
        _limited_by_us = True


def threads() -> str:
    """Threads per rank, as the environment says; for reports."""
    return next((os.environ[name] for name in _VARIABLES if name in os.environ), "all cores")


@contextmanager
def all_cores() -> Iterator[None]:
    """BLAS may use every core that this process may run on, unless the user chose a number.

    Libraries loaded inside the block are not covered: import them before.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    limit = len(os.sched_getaffinity(0)) if _limited_by_us else None
    with threadpool_limits(limit, user_api="blas"):
        yield
