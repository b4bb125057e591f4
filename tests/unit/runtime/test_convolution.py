"""Every way to multiply a block of weights with maps gives the same."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.covering import covering
from helpers.stored_weights import rounded
from repurpose_hpc.model.comm_dtype import BITS, EXACT, WEIGHTS_DTYPES
from repurpose_hpc.model.operations import Window
from repurpose_hpc.model.operations.patches import patches as seen_by
from repurpose_hpc.runtime.buffers import Arena, Scratch
from repurpose_hpc.runtime.lowering.blocks import NO_ACTIVATION, DenseProduct
from repurpose_hpc.runtime.lowering.convolution import Direct, Patches, Pointwise, choose
from repurpose_hpc.runtime.resources import Formats, Resources


def product_of(product, X, start, out):
    """``out`` after the calls of a product, which may add to it."""
    scratch = Scratch(out.dtype, product.scratch(out.shape[1]))
    for _, function, arguments in product.calls(X, start, out, scratch, NO_ACTIVATION):
        function(*arguments)
    return out


@pytest.mark.parametrize(("dtype", "weights_dtype"), covering((np.float32, np.float64), WEIGHTS_DTYPES))
@pytest.mark.parametrize("kernel", [1, 3])
@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 20)),
    stride=st.integers(1, 3),
    batch=st.integers(1, 4),
)
def test_all_ways_agree(dtype, weights_dtype, kernel, seed, channels, size, stride, batch):
    rng, (n, m) = np.random.default_rng(seed), channels
    out_size = tuple((each - 1) // stride + 1 for each in size)
    window = Window(size, (kernel,) * 2, (stride,) * 2, (1, 1), (kernel // 2,) * 2, out_size)
    W = rng.standard_normal((m, n * kernel**2)).astype(dtype)
    X, bias = rng.standard_normal((n, batch, size[0] * size[1])), rng.standard_normal((m, 1))
    expected = rounded(W, weights_dtype).astype(float) @ seen_by(window, X) + bias
    ways = [Direct(window, W, weights_dtype)]
    ways += [Patches(window, W)] if weights_dtype == EXACT else []
    if window.is_pointwise:
        ways.append(Pointwise(partial(DenseProduct, weights_dtype=weights_dtype), W))
    for way in ways:
        out = product_of(way, X.astype(dtype), bias.astype(dtype), np.empty(expected.shape, dtype))
        tolerance = {"rtol": 0, "atol": 1e-4 if dtype == np.float32 else 1e-12}
        np.testing.assert_allclose(out, expected, **tolerance)
        twice = product_of(way, X.astype(dtype), out, out)
        np.testing.assert_allclose(twice, 2 * expected - bias, **tolerance)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("weights_dtype", WEIGHTS_DTYPES)
def test_weights_take_the_bytes_of_their_format(weights_dtype, kernel):
    """Whichever way a program chooses: 64 rows are whole panels."""
    window = Window((14, 14), (kernel,) * 2, (1, 1), (1, 1), (kernel // 2,) * 2, (14, 14))
    W = np.random.default_rng(0).standard_normal((64, 32 * kernel**2)).astype(np.float32)
    bias = np.zeros(64, np.float32)
    block = SimpleNamespace(own_weights=W, ghost_weights=W[:, :0], sum_weights=W[:0], bias=bias)
    resources = Resources(None, 2, None, Arena(), Formats(weights_dtype), 1, False)
    way = choose(window, block, W.size, 14 * 14, resources)(W)
    held = way.product if isinstance(way, Pointwise) else way
    kept = held.weights if isinstance(way, Patches) else held.panels
    assert kept.nbytes == W.size * BITS[weights_dtype] // 8
