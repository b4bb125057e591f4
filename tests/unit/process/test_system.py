"""What the operating system is asked and told of this process."""

import subprocess
import sys
from pathlib import Path

import numba
import numpy as np

from helpers import ROOT
from repurpose_hpc import kernels
from repurpose_hpc.process.system import release_code

LIBRARY = "libllvmlite"
READY = """
import sys
from repurpose_hpc.process.numba import ready_numba
ready_numba()
from repurpose_hpc import kernels
kernels.warm_up("float32")
sys.path[:0] = ["tests", "tests/unit/process"]
from test_system import resident_code
print(resident_code(), "scipy" in sys.modules)
"""


def resident_code() -> int:
    """Kilobytes of the library's code that are resident."""
    total, counted = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            counted = words[1] == "r-xp" and LIBRARY in words[-1]
        elif words[0] == "Rss:" and counted:
            total += int(words[1])
    return total


def test_kernels_work_after_the_compiler_was_let_go():
    kernels.warm_up("float32")
    assert resident_code() > 1000
    release_code(LIBRARY)
    assert resident_code() == 0
    out = np.zeros(3, np.float32)
    kernels.activate_in_place(out, kernels.ACTIVATION_CODES["exp"], 0.0, 0.0)
    np.testing.assert_array_equal(out, [1, 1, 1])


def test_the_compiler_works_after_it_was_let_go():
    release_code(LIBRARY)
    assert numba.njit(lambda x: x + 1)(1) == 2
    assert resident_code() > 0


def test_kernels_in_the_cache_take_little_of_a_compiler_that_was_let_go():
    kernels.warm_up("float32")  # they are in the cache now
    command = [sys.executable, "-c", READY]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    kilobytes, has_scipy = done.stdout.split()
    assert 0 < int(kilobytes) < 20_000
    assert has_scipy == "False"


def test_a_library_that_is_not_there():
    release_code("no library of this name")
