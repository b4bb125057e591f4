"""A kernel is declared in one file; its export, warm-up, recording and thread variant follow."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from repurpose_hpc import kernels
from repurpose_hpc.kernels import Types
from repurpose_hpc.kernels.arguments import EPILOGUE, FLOAT, REAL, WINDOW, Array
from repurpose_hpc.kernels.jit import bound
from repurpose_hpc.kernels.registry import Need, Registry
from repurpose_hpc.kernels.replay import Recording

REALS = Array(REAL, 1)
CLOCK = ctypes.CFUNCTYPE(ctypes.c_double)

# The one file of a new kernel.
TOY = '''
"""A kernel that nobody needs."""

from ..arguments import FLOAT, REAL, Array
from ..registry import kernel


@kernel(arguments={"x": Array(REAL, 1), "factor": FLOAT, "out": Array(REAL, 1)}, replayed=True)
def scale_all(x, factor, out):
    """out = factor x."""
    for i in range(x.size):
        out[i] = factor * x[i]
'''
USE_TOY = """
import ctypes, kernels, numpy as np
assert "scale_all" in kernels.__all__
kernels.warm_up("float64")
clock = ctypes.CFUNCTYPE(ctypes.c_double)(lambda: 0.0)
x, out = np.arange(3.0), np.zeros(3)
recording = kernels.Recording(kernels.Types(x.dtype, x.dtype))
recording.add_kernel(0, kernels.scale_all, (x, 2.0, out))
recording.run(np.zeros(1), ctypes.cast(clock, ctypes.c_void_p).value)
print(out.tolist())
"""


def test_a_new_kernel_is_one_file(tmp_path):
    """Without the compiler, which would take a minute for all kernels; the next test has it for one."""
    copy = tmp_path / "kernels"
    shutil.copytree(Path(kernels.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "products/scale.py").write_text(TOY)
    done = subprocess.run(
        [sys.executable, "-c", USE_TOY],
        cwd=tmp_path,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "[0.0, 2.0, 4.0]\n", done.stderr


@pytest.fixture
def toys():
    """A registry of its own with one kernel, and that kernel."""
    registry = Registry()

    @registry.kernel(arguments={"x": REALS, "factor": FLOAT, "out": REALS}, replayed=True)
    def multiply(x, factor, out):
        for i in range(x.size):
            out[i] = factor * x[i]

    def share(threads, x, factor, out):
        return x.size, (np.arange(threads + 1) * x.size // threads,)

    @registry.thread_variant(multiply, share=share)
    def multiply_threads(x, factor, out, shares):
        for t in numba.prange(len(shares) - 1):
            part = slice(shares[t], shares[t + 1])
            multiply(x[part], factor, out[part])

    return registry, multiply


def test_all_follows_from_the_declaration(toys):
    registry, multiply = toys
    real = np.dtype(np.float32)
    assert registry.exports == {"multiply": multiply}
    kernels.warm_up(real, registry=registry)
    variant = registry.variant(multiply)
    assert len(getattr(multiply, "signatures", [0])) == 1
    x, out, recording = np.arange(5, dtype=real), np.zeros(5, real), Recording(Types(real, real), registry)
    clock = CLOCK(lambda: 0.0)
    recording.add_kernel(0, multiply, (x, 3.0, out))
    assert recording.run(np.zeros(1), ctypes.cast(clock, ctypes.c_void_p).value) == 0
    np.testing.assert_array_equal(out, 3 * x)
    work, extra = variant.share(2, x, 3.0, out)
    variant.function(x, 5.0, out, *extra)
    assert work == 5
    np.testing.assert_array_equal(out, 5 * x)
    for function in (multiply, variant.function):
        assert len(getattr(function, "signatures", [0])) == 1


def test_windows_and_activations_can_be_on_a_recording():
    registry, real = Registry(), np.dtype(np.float64)

    @registry.kernel(arguments={"window": WINDOW, "epilogue": EPILOGUE, "out": REALS}, replayed=True)
    def flatten(window, epilogue, out):
        pairs = window.kernel, window.strides, window.dilations, window.pads
        for k in range(4):
            out[2 * k], out[2 * k + 1] = pairs[k][0], pairs[k][1]
        out[8], out[9], out[10] = epilogue.code, epilogue.alpha, epilogue.beta

    out, recording, clock = np.zeros(11), Recording(Types(real, real), registry), CLOCK(lambda: 0.0)
    window, epilogue = kernels.Window2D((1, 2), (3, 4), (5, 6), (7, 8)), kernels.Epilogue(9, 0.5, -0.25)
    recording.add_kernel(0, flatten, (window, epilogue, out))
    recording.run(np.zeros(1), ctypes.cast(clock, ctypes.c_void_p).value)
    assert out.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0.5, -0.25]


def test_other_parameters_than_declared_are_refused():
    registry = Registry()
    with pytest.raises(TypeError, match=r"f: expected the parameters \['x'\], found \['y'\]"):
        registry.kernel(arguments={"x": REALS})(lambda_named("y"))


def test_a_name_is_taken_once():
    registry = Registry()
    registry.kernel(arguments={"x": REALS}, need=Need.NONE)(lambda_named("x"))
    with pytest.raises(TypeError, match="f: there is a kernel of that name"):
        registry.kernel(arguments={"x": REALS})(lambda_named("x"))


def lambda_named(parameter):
    """A function ``f`` of one parameter."""
    if parameter == "x":

        def f(x):
            return None
    else:

        def f(y):
            return None

    return f


def test_a_bound_kernel_does_the_same():
    values, same = np.array([-1.0, 2.0]), np.array([-1.0, 2.0])
    arguments = values, kernels.ACTIVATION_CODES["relu"], 0.0, 0.0
    bound(kernels.activate_in_place, arguments)(*arguments)
    kernels.activate_in_place(same, *arguments[1:])
    np.testing.assert_array_equal(values, same)
    assert bound(np.copyto, arguments) is np.copyto
