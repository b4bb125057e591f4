"""A clock for compiled code that runs without MPI."""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import types

from ..jit import CFunction

# Linux's number of the clock that only goes forward.
_CLOCK_MONOTONIC = 1
_clock_gettime = types.ExternalFunction("clock_gettime", types.intc(types.intc, types.voidptr))


def _seconds() -> float:
    time = np.empty(2, np.int64)
    _clock_gettime(_CLOCK_MONOTONIC, time.ctypes)
    return time[0] + 1e-9 * time[1]


@cache
def _clock() -> CFunction:
    return CFunction(_seconds, types.float64)


def monotonic_address() -> int:
    """The address of a C function that returns the seconds since some moment.

    Compiled when it is first asked for: a rank that has MPI takes MPI's clock, and needs the memory.
    """
    return _clock().address
