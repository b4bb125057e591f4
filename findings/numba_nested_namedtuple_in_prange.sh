#!/usr/bin/env bash
# Numba: nested tuples in loops over prange, and NamedTuples unpacked in calls.
#
#     findings/numba_nested_namedtuple_in_prange.sh        needs python3 with venv, and the network
#
# Expected: a function that compiles with a plain loop compiles with a loop over prange, and a NamedTuple can
# be unpacked in a call wherever a tuple can.
#
# Seen with Numba 0.68.1 on Linux x86-64, Python 3.11:
# - A (Named)Tuple that holds another one, read inside a loop over prange of a function with parallel=True:
#   TypeError: scalar type UniTuple(int64 x 2) given for non scalar argument #2.
#   The same loop over range works.  So does prange with the inner tuple taken out before the loop.
# - f(x, *t) with a NamedTuple t: TypingError, no implementation of add(UniTuple, t).
#   f(*t) works, and so does f(x, *t) with a plain tuple.
#
# Exit status: 0 as seen, 1 something has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numba==0.68.1 numpy==2.4.6

cat > "$folder/finding.py" <<'PYTHON'
import sys
from typing import NamedTuple

import numba
import numpy as np


class Window(NamedTuple):
    kernel: tuple[int, int]
    strides: tuple[int, int]


class Point(NamedTuple):
    x: float
    y: float


@numba.njit
def in_loop(window, out):
    for i in range(out.size):
        out[i] = window.kernel[0] * window.kernel[1]


@numba.njit(parallel=True)
def in_prange(window, out):
    for i in numba.prange(out.size):
        out[i] = window.kernel[0] * window.kernel[1]


@numba.njit(parallel=True)
def taken_out_before(window, out):
    kernel = window.kernel
    for i in numba.prange(out.size):
        out[i] = kernel[0] * kernel[1]


@numba.njit(parallel=True)
def flat_in_prange(point, out):
    for i in numba.prange(out.size):
        out[i] = point.x


@numba.njit
def add(*values):
    total = 0.0
    for value in values:
        total += value
    return total


@numba.njit
def star_alone(values):
    return add(*values)


@numba.njit
def star_behind_another(values):
    return add(1.0, *values)


def attempt(function, *arguments):
    """The kind of error, and its text; "ok" if there is none."""
    try:
        function(*arguments)
    except (TypeError, numba.core.errors.TypingError) as error:
        lines = [line for line in str(error).splitlines() if "scalar" in line or ">>>" in line]
        return f"{type(error).__name__}: {' '.join(lines).strip()}"
    return "ok"


window, point, out = Window((3, 2), (1, 1)), Point(1.0, 2.0), np.zeros(4)
cases = [
    ("nested, range", attempt(in_loop, window, out), "ok"),
    ("nested, prange", attempt(in_prange, window, out), "TypeError: scalar type UniTuple(int64 x 2)"),
    ("flat, prange", attempt(flat_in_prange, point, out), "ok"),
    ("inner tuple taken out, prange", attempt(taken_out_before, window, out), "ok"),
    ("f(*NamedTuple)", attempt(star_alone, point), "ok"),
    ("f(x, *tuple)", attempt(star_behind_another, (1.0, 2.0)), "ok"),
    ("f(x, *NamedTuple)", attempt(star_behind_another, point), "TypingError: >>> add(UniTuple"),
]
print(f"Numba {numba.__version__}, NumPy {np.__version__}, Python {sys.version.split()[0]}")
changed = 0
for name, seen, expected in cases:
    changed += not seen.startswith(expected)
    print(f"{name:<32} {seen}{'' if seen.startswith(expected) else f'   CHANGED, was: {expected}'}")
sys.exit(changed > 0)
PYTHON
"$folder/venv/bin/python" "$folder/finding.py"
