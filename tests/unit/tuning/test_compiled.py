"""What kernels make of operations and their derivatives is what the operations themselves make of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.mixing_cases import cases, windows
from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.operations import Combine, Elementwise, Mixing, Pool, Window
from repurpose_hpc.tuning.compiled import computed, product, product_by_source, product_by_weights, vjp

TOLERANCE = {"float32": 1e-5, "float64": 1e-13}


def assert_same(found, expected):
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    scale = max(
        1.0, np.abs(expected, where=np.isfinite(expected), out=np.zeros_like(expected)).max(initial=0)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=scale * TOLERANCE[expected.dtype.name])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_mixings(dtype):
    @given(cases(dtype))
    def check(case):
        op, g, x = case
        assert_same(product(op, x), op.compute(x))
        assert_same(product_by_source(op, g, x), op.vjp(g, op.compute(x), x)[0])
        for found, expected in zip(product_by_weights(op, g, x), op.gradient(g, x), strict=True):
            assert_same(found, expected)

    check()


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize(("side", "strides"), [(3, 1), (90, 1), (90, 2), (301, 3)])
def test_convolutions_of_several_copies(side, strides, batch):
    """Of more samples, or of larger maps, than one copy holds."""
    rng, out = np.random.default_rng(side), (side - 1) // strides + 1
    window = Window((side, side), (3, 3), (strides, strides), (1, 1), (1, 1), (out, out))
    x, g = rng.standard_normal((5, batch, side**2)), rng.standard_normal((6, batch, out**2))
    op = Mixing("op", "x", "y", rng.standard_normal((6, 45)), np.zeros(6), window)
    assert_same(product_by_weights(op, g, x)[0], op.gradient(g, x)[0])


def test_many_samples_of_small_maps_are_copied_together_and_the_last_ones_are_fewer():
    """A copy holds about a thousand of these; what an earlier one left behind the last sample is not seen."""
    rng, window = np.random.default_rng(0), Window((4,), (3,), (1,), (1,), (1,), (4,))
    x, g = rng.standard_normal((8, 3000, 4)), rng.standard_normal((2, 3000, 4))
    op = Mixing("op", "x", "y", rng.standard_normal((2, 24)), np.zeros(2), window)
    assert_same(product_by_weights(op, g, x)[0], op.gradient(g, x)[0])


@st.composite
def pools(draw):
    """A max pool of any window on a map, its source with many equal numbers, and derivatives."""
    window = draw(windows().filter(lambda window: window is not None))
    rng, dtype = np.random.default_rng(draw(st.integers(0, 99))), draw(st.sampled_from(sorted(TOLERANCE)))
    n, batch, positions = draw(st.integers(0, 3)), draw(st.integers(1, 4)), int(np.prod(window.positions))
    x = rng.integers(-2, 3, (n, batch, positions)).astype(dtype)
    x[rng.random(x.shape) < draw(st.sampled_from([0, 0.1]))] = np.nan
    x = x if positions > 1 else x[:, :, 0]
    op = Pool("op", "x", "y", "max", window)
    y = op.compute(x)
    return op, rng.standard_normal(y.shape).astype(dtype), x, y


@given(pools())
@settings(deadline=None)
def test_max_pools(case):
    op, g, x, y = case
    assert_same(computed(op, x), y)
    assert_same(vjp(op, g, y, x)[0], op.vjp(g, y, x)[0])


@pytest.mark.parametrize("kind", ["relu", "tanh", "leaky_relu"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4), (0, 2)])
def test_activations(kind, shape):
    rng, op = np.random.default_rng(0), Elementwise("op", "x", "y", Activation(kind, 0.1))
    x, g = rng.standard_normal(shape), rng.standard_normal(shape[::-1]).T
    x[:1, :1] = 0
    assert_same(vjp(op, g, op.compute(x), x)[0], op.vjp(g, op.compute(x), x)[0])


@pytest.mark.parametrize(
    "op",
    [
        Elementwise("op", "x", "y", Activation("relu")),
        Pool("op", "x", "y", "max", Window((5,), (3,), (1,), (1,), (1,), (5,))),
    ],
)
def test_sources_whose_axes_lie_in_another_order(op):
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((5, 3, 4)).transpose(1, 2, 0), rng.standard_normal((3, 4, 5))
    assert_same(vjp(op, g, op.compute(x), x)[0], op.vjp(g, op.compute(x), x)[0])


@pytest.mark.parametrize("kind", ["add", "subtract", "multiply", "maximum"])
def test_combinations(kind):
    """Derivatives by finite differences; those of a sum are handed on, and stay as they are."""
    rng, op = np.random.default_rng(0), Combine("op", ("a", "b"), "y", kind)
    a, b, g = (rng.standard_normal((2, 3, 4)) for _ in range(3))
    kept = g.copy()
    for number, found in enumerate(vjp(op, g, op.compute(a, b), a, b)):
        for at in np.ndindex(a.shape):
            step = np.zeros_like(a)
            step[at] = 1e-6
            ends = [(a + s * step, b) if number == 0 else (a, b + s * step) for s in (1, -1)]
            above, below = (np.vdot(g, op.compute(*end)) for end in ends)
            assert found[at] == pytest.approx((above - below) / 2e-6, abs=1e-6)
    np.testing.assert_array_equal(g, kept)
