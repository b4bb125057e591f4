"""The projection kernel against NumPy."""

import numpy as np
import pytest

from repurpose_hpc.kernels import project_out


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (5, 70), (33, 8)])
def test_one_input_is_taken_out_of_all_correlations(shape):
    rng = np.random.default_rng(0)
    correlation, t, z = (
        rng.standard_normal(shape),
        rng.standard_normal(shape[0]),
        rng.standard_normal(shape[1]),
    )
    expected = correlation - np.outer(t, z)
    squares = np.full(shape[1], np.nan)
    project_out(correlation, t, z, squares)
    np.testing.assert_allclose(correlation, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(squares, (expected**2).sum(axis=0), rtol=1e-12)
