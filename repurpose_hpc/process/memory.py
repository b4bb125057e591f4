"""Memory of this process."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST_OF_MMAP_THRESHOLD = 32 << 20  # more is refused
_NEVER = 2**31 - 1


def give_back() -> None:
    """Give memory that was freed back to the system, where the C library is glibc.

    glibc keeps what arrays of up to 32 MiB have left for new ones.  Of a process that has let a model go this
    may be as much as the model, which it will not need again.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_what_is_freed() -> None:
    """Have memory that is freed wait for the next arrays, where the C library is glibc.

    For loops that make arrays of the same sizes again and again: memory that comes back from the system is
    cleared, page by page, which may take as long as what is then done with it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _MOST_OF_MMAP_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, _NEVER)
