"""Knowledge of the operating system about this process (Linux)."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

_MAPS = Path("/proc/self/maps")
_PR_SET_PDEATHSIG = 1


def age() -> float:
    """Seconds since the process began, to a hundredth."""
    # After the name, which may hold anything, from the third field on; the 22nd: ticks since boot.
    fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK")


def peak_memory_mib() -> float:
    """The most memory that was resident at any time, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ending_with(parent: int) -> Callable[[], None]:
    """A function for a child to call first, so that it gets SIGTERM when its parent ends in whatever way.

    Args:
        parent: number of the process that starts it.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def prepare() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # it has ended in between
            os._exit(1)

    return prepare


def release_code(library: str) -> None:
    """Let go the pages of a shared library's code; they come back from the file cache if they are used again.

    Only code, which is as it is in the file; a library's data are not.

    Args:
        library: part of its file's name; one whose code nobody patches in memory.
    """
    lines = _MAPS.read_text(encoding="utf-8", errors="replace").splitlines() if _MAPS.exists() else []
    system = ctypes.CDLL(None)
    for line in lines:
        span, access, *_, path = line.split(maxsplit=5)
        if access == "r-xp" and library in os.path.basename(path):
            first, last = (int(address, 16) for address in span.split("-"))
            system.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)
