"""Memory that is given back, in a process of its own."""

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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_what_was_freed_is_given_back():
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", FREES], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept, given = map(float, done.stdout.split())
    assert kept < 16 and given > 48
