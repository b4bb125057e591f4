"""Normalisations of groups of neurons, against NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.kernels import ACTIVATION_CODES, Epilogue, normalise

IDENTITY, RELU = (Epilogue(ACTIVATION_CODES[kind], 0.0, 0.0) for kind in ("identity", "relu"))
TOLERANCE = {np.float32: 3e-6, np.float64: 1e-13}


def expected(x, groups, epsilon, is_centred, scale, shift):
    by_group = x.astype(np.longdouble).reshape(groups, -1, x.shape[1])
    if is_centred:
        by_group = by_group - by_group.mean(axis=1, keepdims=True)
    variance = (by_group**2).mean(axis=1, keepdims=True)
    return (by_group / np.sqrt(variance + epsilon)).reshape(x.shape) * scale[:, None] + shift[:, None]


@given(
    seed=st.integers(0, 2**32 - 1),
    groups=st.integers(1, 4),
    size=st.integers(1, 90),
    columns=st.just(1) | st.integers(1, 140),
    dtype=st.sampled_from([np.float32, np.float64]),
    is_centred=st.booleans(),
    onto=st.booleans(),
)
def test_against_numpy(seed, groups, size, columns, dtype, is_centred, onto):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((groups * size, columns)) + 1).astype(dtype)
    scale, shift = (rng.standard_normal(groups * size).astype(dtype) for _ in range(2))
    want = expected(x, groups, 0.01, is_centred, scale, shift)
    out = x.copy() if onto else np.full_like(x, np.nan)
    arguments = (size, 1 / size, 0.01, int(is_centred), scale, shift)
    normalise(out if onto else x, *arguments, out, IDENTITY)
    np.testing.assert_allclose(out, want, rtol=0, atol=TOLERANCE[dtype] * (1 + np.abs(want).max()))
    normalise(x, *arguments, out, RELU)
    np.testing.assert_allclose(
        out, np.maximum(want, 0), rtol=0, atol=TOLERANCE[dtype] * (1 + np.abs(want).max())
    )


@pytest.mark.parametrize("columns", [1, 70])
def test_one_that_is_no_number_stays_in_its_group_and_column(columns):
    x, ones = np.ones((6, columns), np.float32), np.ones(6, np.float32)
    x[1, 0] = np.nan
    out = np.empty_like(x)
    normalise(x, 3, 1 / 3, 1.0, 1, ones, ones, out, IDENTITY)
    assert np.isnan(out[:3, 0]).all()
    out[:3, 0] = 1
    np.testing.assert_array_equal(out, np.ones_like(x))


@pytest.mark.parametrize("shape", [(0, 3), (4, 0)])
def test_nothing_is_normalised(shape):
    x, ones = np.empty(shape, np.float32), np.ones(shape[0], np.float32)
    normalise(x, shape[0], 0.0, 1.0, 1, ones, ones, x, IDENTITY)
