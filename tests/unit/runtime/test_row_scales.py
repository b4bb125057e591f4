"""Scales of weights in int8: those of a quantised model stay its own integers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.model.comm_dtype import INT8, decode, encode, scales_of
from repurpose_hpc.runtime.lowering.weights import row_scales


@given(seed=st.integers(0, 10**6), most=st.integers(1, 127), columns=st.integers(1, 200))
def test_integers_of_a_file_are_kept(seed, most, columns):
    rng = np.random.default_rng(seed)
    integers = rng.integers(-most, most + 1, (6, columns))
    weights = integers.astype(np.float32) * np.exp(rng.normal(size=(6, 1))).astype(np.float32)
    scales = row_scales(weights)
    codes = encode(weights, INT8, scales)
    np.testing.assert_allclose(decode(codes, INT8, scales), weights, rtol=1e-6)
    for row, code in zip(integers, codes, strict=True):
        # The same ones, but for a common divisor.
        np.testing.assert_array_equal(np.abs(row).max() * code, np.abs(code).max() * row)


@pytest.mark.parametrize("columns", [30, 300])
def test_other_weights_have_the_scale_of_their_largest(columns):
    weights = np.random.default_rng(0).normal(size=(20, columns)).astype(np.float32)
    weights[3] = 0
    np.testing.assert_array_equal(row_scales(weights), scales_of(np.abs(weights).max(axis=1)))
