"""Memory that is given back, or kept, in a process of its own."""

import ctypes
import subprocess
import sys

import pytest

from helpers import ROOT

# Leaves 64 MiB in pieces, below one that stays.
FREES = """
import numpy as np
from repurpose_hpc.process.memory import give_back

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) / 256

np.ones(1 << 21)  # glibc now takes arrays of up to 16 MiB from its heap
pieces = [np.ones(1 << 17) for _ in range(64)]
before, last = resident(), np.ones(1 << 17)
del pieces
freed = resident()
give_back()
print(before - freed, freed - resident())
"""


# Makes 64 MiB in pieces again and again; prints the pages that the system had to give before and after.
MAKES = """
from resource import RUSAGE_SELF, getrusage
import numpy as np
from repurpose_hpc.process.memory import keep_what_is_freed

def faults():
    before = getrusage(RUSAGE_SELF).ru_minflt
    for _ in range(4):
        pieces = [np.ones(1 << 17) for _ in range(64)]
        del pieces
    return getrusage(RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
keep_what_is_freed()
faults()
print(before, faults())
"""

on_glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc"
)


def numbers_of(program: str) -> list[float]:
    """What a program prints."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [*map(float, done.stdout.split())]


@on_glibc
def test_what_was_freed_is_given_back():
    kept, given = numbers_of(FREES)
    assert kept < 16 and given > 48


@on_glibc
def test_what_was_freed_is_kept():
    before, behind = numbers_of(MAKES)
    assert behind < before / 10
