"""JIT policy: warm-up compiles all that networks call, and plain Python on request."""

import os
import subprocess
import sys

import numpy as np
import pytest

from helpers import TESTS
from helpers.stored_weights import packed_for_convolution
from repurpose_hpc import kernels


def run(arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_warm_up_leaves_nothing_to_compile():
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        pytest.skip("nothing is compiled")
    kernels.warm_up(np.float32, maps=True)
    compiled = [getattr(kernels, name) for name in kernels.__all__]
    compiled = [kernel for kernel in compiled if hasattr(kernel, "signatures")]
    before = [len(kernel.signatures) for kernel in compiled]

    relu, index = kernels.Epilogue(kernels.ACTIVATION_CODES["relu"], 0.0, 0.0), kernels.INDEX_DTYPE
    W, X, bias = np.ones((6, 5), np.float32), np.ones((5, 3), np.float32), np.ones(6, np.float32)
    x, out, vector = X[:, 0].copy(), np.empty((6, 3), np.float32), np.empty(6, np.float32)
    rows, pointers = np.zeros(2, index), np.zeros(7, index)
    panels = np.ones((1, 5, kernels.panel_rows(W.dtype)), W.dtype)
    scratch = np.empty(kernels.dense_scratch(5, 3, W.dtype), W.dtype)
    for scales in (bias, bias[:0]):
        kernels.dense(panels, scales, X, bias[:, None], out, scratch, 0, relu)
        kernels.dense(panels, scales, X, out, out, scratch, 0, relu)
    kernels.clear(out)
    kernels.csr_vector(bias, rows, pointers, rows, rows, x, vector, vector, relu)
    kernels.csr_batch(bias, rows, pointers, rows, rows, X, bias[:, None], out, relu)
    kernels.csr_batch(bias, rows, pointers, rows, rows, X, out, out, relu)
    kernels.finish(bias[:, None], out, out, relu)
    kernels.activate_in_place(out, *relu)
    kernels.activate_in_place(vector, *relu)
    kernels.pack(x[:, None], rows, np.empty((2, 1), np.float32))
    kernels.unpack(np.empty((2, 3), np.float32), rows, out)
    kernels.unpack_add(np.empty((2, 3), np.float32), rows, out)
    use_maps(relu)
    assert [len(kernel.signatures) for kernel in compiled] == before


def use_maps(relu):
    def ones(*shape):
        return np.ones(shape, np.float32)

    x, out, bias, flat = ones(5, 2, 4, 3), ones(5, 2, 4, 3), ones(5, 1, 1, 1), ones(5, 2, 12)
    window, region = kernels.Window2D((3, 3), (1, 1), (1, 1), (1, 1)), kernels.Region.whole((4, 3))
    for by_channels in (0, 1):
        weights = packed_for_convolution(ones(5, 45), by_channels)
        kernels.convolve_direct(*weights, by_channels, x, window, region, bias, out, relu)
        kernels.convolve_direct(*weights, by_channels, x, window, region, out, out, relu)
    kernels.patches(x, 1, (4, 3), window, ones(45, 21))
    kernels.depthwise(ones(5, 3, 3), x, window, bias, out, relu)
    kernels.max_pool(x, window, out)
    kernels.average_pool(x, window, (1, 1, 1, 1), out)
    kernels.affine(ones(5, 1), flat, ones(5, 1), flat, relu)
    kernels.combine(kernels.COMBINATION_CODES["multiply"], flat, ones(5, 2, 1), flat, relu)
    kernels.take_positions(flat, np.array([-1, 3]), 0.0, ones(5, 2, 2))


def test_warm_up_refuses_other_types():
    with pytest.raises(ValueError, match="float16"):
        kernels.warm_up(np.float16)


def test_kernels_as_plain_python():
    """The inner functions too, which ``py_func`` of an outer one leaves compiled."""
    files = [
        f"test_{name}.py" for name in ("products", "activations", "packing", "flags", "maps", "comm_dtype")
    ]
    pytest_arguments = ["-q", "-p", "no:cacheprovider", "-k", "not plain"]  # both versions are plain here
    # NumPy warns of numbers that overflow or are not defined, compiled code does not.
    plain = {"NUMBA_DISABLE_JIT": "1", "PYTHONWARNINGS": "ignore"}
    done = run(["-m", "pytest", *pytest_arguments, *files], TESTS / "unit/kernels", **plain)
    assert done.returncode == 0, done.stdout + done.stderr
