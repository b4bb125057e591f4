"""Derivatives of maps by kernels, compiled and as plain Python: numbers by hand, and convolutions."""

import numpy as np
import pytest
from hypothesis import given, settings

from helpers.mixing_cases import cases
from repurpose_hpc import kernels
from repurpose_hpc.kernels import Window2D
from repurpose_hpc.runtime.lowering.local import as_maps, on_two_axes


@pytest.fixture(scope="module", params=["compiled", "plain"])
def version(request):
    if request.param == "compiled":
        return lambda kernel: kernel
    return lambda kernel: getattr(kernel, "py_func", kernel)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_convolution_gradient(version, dtype):
    """Of what was in ``out`` nothing is left, even where there are no samples or neurons."""

    @given(cases(dtype).filter(lambda case: case[0].window is not None and len(case[0].window.kernel) < 3))
    @settings(max_examples=50, deadline=None)
    def check(case):
        op, g, x = case
        expected, _ = op.gradient(g, x)
        maps = as_maps(g, op.window.out), as_maps(x, op.window.positions)
        out = np.full_like(expected, np.nan)
        version(kernels.convolution_gradient)(*maps, on_two_axes(op.window), out)
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-12)

    check()


def test_max_pool_gradient(version):
    x, y = np.array([[[[1, 3, 3], [2, 0, 3.0]]]]), np.array([[[[3, 3.0]]]])
    g, out = np.array([[[[5, 7.0]]]]), np.full((1, 1, 2, 3), np.nan)
    version(kernels.max_pool_gradient)(g, x, y, Window2D((2, 2), (1, 1), (1, 1), (0, 0)), out)
    np.testing.assert_array_equal(out[0, 0], [[0, 12, 0], [0, 0, 0]])


def test_relu_gradient(version):
    out = np.full(4, np.nan)
    version(kernels.relu_gradient)(np.array([5, 6, 7, 8.0]), np.array([-1, 0, 2, np.nan]), out)
    np.testing.assert_array_equal(out, [0, 0, 7, 0])
