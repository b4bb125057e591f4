"""Memory of this process."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Give memory that was freed back to the system, where the C library is glibc.

    glibc keeps what arrays of up to 32 MiB have left for new ones.  Of a process that has let a model go this
    may be as much as the model, which it will not need again.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
