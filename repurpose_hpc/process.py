"""What the operating system knows of this process (Linux)."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path


def age() -> float:
    """Seconds since the process began, to a hundredth."""
    # After the name, which may hold anything, from the third field on; the 22nd: ticks since boot.
    fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK")


def peak_memory_mib() -> float:
    """The most memory that was resident at any time, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
