"""Products that add the weights of inputs that are 1, against NumPy and the dense product."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc import kernels
from repurpose_hpc.kernels import ACTIVATION_CODES, INDEX_DTYPE, Epilogue
from repurpose_hpc.kernels.products.crossover import EVENT_DENSITY
from repurpose_hpc.kernels.products.events import DEPTH, are_few_events, list_events
from repurpose_hpc.runtime.buffers import Scratch
from repurpose_hpc.runtime.lowering.blocks import NO_ACTIVATION, DenseProduct

RELU = Epilogue(ACTIVATION_CODES["relu"], 0.0, 0.0)
TOLERANCE = {"float32": 2e-5, "float64": 1e-13}


def plain(kernel):
    return getattr(kernel, "py_func", kernel)  # with NUMBA_DISABLE_JIT it is plain already


@pytest.fixture(scope="module", params=["compiled", "plain"])
def version(request):
    return {"compiled": lambda kernel: kernel, "plain": plain}[request.param]


@st.composite
def problems(draw):
    """(W, X, start): any shape including empty ones, inputs in several stretches, any number of events."""
    rows = draw(st.integers(0, 200))
    columns = draw(st.integers(0, 11) | st.integers(DEPTH - 1, 2 * DEPTH + 2))
    batch = draw(st.integers(0, 11) | st.integers(12, 40))
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = draw(st.sampled_from([0, 0.02, 0.3, 0.39, 1]))
    X = (rng.random((columns, batch)) < share).astype(dtype)
    if draw(st.booleans()) and X.size:
        X.reshape(-1)[rng.integers(X.size)] = draw(st.sampled_from([0.5, -1, 2, np.nan]))
    W = rng.standard_normal((rows, columns)).astype(dtype)
    start = rng.standard_normal((rows, draw(st.sampled_from([1, batch])))).astype(dtype)
    return W, X, start


def multiplied(kernel, W, X, start, epilogue, in_order=0):
    """What the kernel that a product has calls for, in memory that held something else before."""
    product = DenseProduct(W, same_bits=bool(in_order), has_events=True)
    scratch = Scratch(W.dtype, product.scratch(X.shape[1]))
    scratch.take(product.scratch(X.shape[1])).fill(np.nan)
    out = np.full((len(W), X.shape[1]), np.nan, W.dtype)
    ((_, function, arguments),) = product.calls(X, start, out, scratch, epilogue)
    assert function is kernels.dense_events
    kernel(function)(*arguments)
    return out


@given(problem=problems())
def test_events_are_the_product(version, problem):
    W, X, start = problem
    out = multiplied(version, W, X, start, RELU)
    expected = np.maximum(start + W.astype(np.float64) @ X, 0)
    np.testing.assert_allclose(out, expected, rtol=0, atol=TOLERANCE[W.dtype.name] * (3 + X.size) ** 0.5)


@given(problem=problems())
def test_samples_have_the_bits_of_the_dense_product_in_order(problem):
    """So that what a deterministic program computes does not depend on how many of a batch are 1."""
    W, X, start = problem
    product = DenseProduct(W, same_bits=True)
    scratch = Scratch(W.dtype, product.scratch(X.shape[1]))
    out = np.empty((len(W), X.shape[1]), W.dtype)
    ((_, function, arguments),) = product.calls(X, start, out, scratch, NO_ACTIVATION)
    function(*arguments)
    np.testing.assert_array_equal(multiplied(lambda kernel: kernel, W, X, start, NO_ACTIVATION, 1), out)


def test_weights_in_fewer_bits():
    rng = np.random.default_rng(0)
    W, X = rng.standard_normal((40, 30)).astype(np.float32), (rng.random((30, 9)) < 0.2).astype(np.float32)
    found = []
    for has_events in (False, True):
        product = DenseProduct(W, "int8", has_events=has_events)
        scratch = Scratch(W.dtype, product.scratch(9))
        out = np.empty((40, 9), np.float32)
        for _, function, arguments in product.calls(X, W[:, :1].copy(), out, scratch, NO_ACTIVATION):
            function(*arguments)
        found.append(out)
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-5)


def test_what_counts_as_events(version):
    few = version(are_few_events)
    x = np.zeros(1000, np.float32)
    x[: int(1000 * EVENT_DENSITY)] = 1
    assert few(x) and few(x[:0])
    x[-1] = 1
    assert not few(x)
    x[:] = 0
    x[999] = -1
    assert not few(x)


def test_lists(version):
    X = (np.random.default_rng(1).random((2 * DEPTH + 5, 7)) < 0.3).astype(np.float32)
    n, block = len(X), 8
    events, counts = np.zeros(block * n, INDEX_DTYPE), np.zeros(block, INDEX_DTYPE)
    bounds = np.zeros(4 * block, INDEX_DTYPE)
    version(list_events)(X, 2, 7, events, counts, bounds)
    for c in range(5):
        expected = np.flatnonzero(X[:, 2 + c])
        np.testing.assert_array_equal(events[c * n :][: counts[c]], expected)
        places = [np.searchsorted(expected, stretch * DEPTH) for stretch in range(4)]
        np.testing.assert_array_equal(bounds[c::block], places)
