"""A clock for compiled code that runs without MPI."""

from __future__ import annotations

import numpy as np
from numba import cfunc, types

# Linux's number of the clock that only goes forward.
_CLOCK_MONOTONIC = 1
_clock_gettime = types.ExternalFunction("clock_gettime", types.intc(types.intc, types.voidptr))


@cfunc(types.float64(), cache=True)
def monotonic() -> float:
    """Seconds since some moment, as a C function: its ``address`` is what compiled code calls."""
    time = np.empty(2, np.int64)
    _clock_gettime(_CLOCK_MONOTONIC, time.ctypes)
    return time[0] + 1e-9 * time[1]
