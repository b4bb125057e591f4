"""Gradients of depthwise convolutions by weights and bias."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.mixing_cases import windows
from repurpose_hpc.model.operations import Depthwise


@st.composite
def cases(draw, dtype=np.float64):
    """An operation, a gradient by its target, and its source; perhaps without neurons."""
    window = draw(windows().filter(lambda window: window is not None))
    rng, n, batch = np.random.default_rng(draw(st.integers(0, 99))), draw(st.integers(0, 3)), 2
    x = rng.standard_normal((n, batch, int(np.prod(window.positions)))).astype(dtype)
    x = x if x.shape[2] > 1 else x[:, :, 0]
    weights, bias = (rng.standard_normal(shape).astype(dtype) for shape in ((n, window.taps), (n,)))
    op = Depthwise("op", "x", "y", weights, bias, window)
    return op, rng.standard_normal(op.compute(x).shape).astype(dtype), x


@given(cases())
def test_gradients_are_those_of_differences(case):
    op, g, x = case
    for name, found in zip(("weights", "bias"), op.gradient(g, x), strict=True):
        array = getattr(op, name)
        assert (found.shape, found.dtype) == (array.shape, array.dtype)
        for at in np.ndindex(array.shape):
            unit = np.zeros_like(array)
            unit[at] = 1
            above, below = (replace(op, **{name: array + s * unit}).compute(x) for s in (1, -1))
            assert found[at] == pytest.approx(np.vdot(g, above - below) / 2, rel=1e-8, abs=1e-11)


def test_gradients_have_the_dtype_of_g():
    @given(cases(np.float32))
    def check(case):
        op, g, x = case
        assert {each.dtype for each in op.gradient(g, x)} == {np.dtype(np.float32)}

    check()
