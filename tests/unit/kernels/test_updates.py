"""Steps of optimisers, compiled and as plain Python: one number by hand."""

import numpy as np
import pytest

from repurpose_hpc import kernels
from repurpose_hpc.kernels.updates.weights import AdamWStep, SGDStep

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@pytest.fixture(scope="module", params=["compiled", "plain"])
def version(request):
    if request.param == "compiled":
        return lambda kernel: kernel
    return lambda kernel: getattr(kernel, "py_func", kernel)


@DTYPES
def test_adamw(version, dtype):
    weights, gradient, mean, square = (np.full(3, value, dtype) for value in (2, 4, 8, 16))
    step = AdamWStep(rate=0.5, root=2.0, beta1=0.75, beta2=0.9375, eps=1.0, decay=0.25)
    version(kernels.adamw)(weights, gradient, mean, square, step)
    np.testing.assert_array_equal([mean[1], square[1], gradient[1]], [7, 16, 4])
    np.testing.assert_allclose(weights, 1.5 - 0.5 * 7 / 9, rtol=1e-6)
    assert weights.dtype == dtype


@DTYPES
def test_sgd(version, dtype):
    weights, gradient, velocity = (np.full(3, value, dtype) for value in (2, 4, 8))
    version(kernels.sgd)(weights, gradient, velocity, SGDStep(rate=0.5, momentum=0.75, decay=0.25))
    np.testing.assert_array_equal([weights[1], gradient[1], velocity[1]], [2 - 10.5 / 2, 4, 10.5])


@DTYPES
def test_the_complement_of_beta2_is_exact(dtype):
    """It is 0.001, not what float32(0.999) leaves of 1."""
    arrays = [np.array([value], dtype) for value in (0, 1, 0, 0)]
    kernels.adamw(*arrays, AdamWStep(rate=0.1, root=1.0, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.0))
    np.testing.assert_allclose(arrays[3], 0.001, rtol=1e-7)
