"""What one rank makes for all: networks that the others would only make once more."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from mpi4py import MPI

COMM = MPI.COMM_WORLD
# Between two looks whether the root is ready; a rank that waits for it leaves the processor to it.
SECONDS = 0.002


def by_root(function: Callable) -> Callable:
    """The function, called by rank 0 for all ranks of the job, once for the same arguments; collective.

    Args:
        function: of arguments that can be hashed, and the same on all ranks; its result can be pickled.
    """

    @wraps(function)
    @cache
    def made(*arguments: Any, **fields: Any) -> Any:
        return from_root(lambda: function(*arguments, **fields))

    return made


def from_root(make: Callable[[], Any]) -> Any:
    """What ``make`` returns, or raises, on rank 0; collective."""
    made = problem = None
    if COMM.rank == 0:
        try:
            made = make()
        except Exception as error:
            problem = error
    ready = COMM.Ibarrier()
    while not ready.Test():
        time.sleep(SECONDS)
    made, problem = COMM.bcast((made, problem))
    if problem is not None:
        raise problem
    return made
