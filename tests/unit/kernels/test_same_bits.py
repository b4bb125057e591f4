"""Results of a sample that do not depend on the batch, nor on the place in it, to the last bit.

Deterministic programs are made of these kernels (see ``runtime.program``).
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from helpers.stored_weights import packed_for_convolution
from repurpose_hpc import kernels
from repurpose_hpc.kernels import ACTIVATION_CODES, INDEX_DTYPE, Epilogue, Region, Window2D
from repurpose_hpc.kernels.registry import REGISTRY
from repurpose_hpc.model import comm_dtype
from repurpose_hpc.model.activations import Activation, activate
from repurpose_hpc.runtime.lowering.blocks import DenseProduct

IDENTITY = Epilogue(ACTIVATION_CODES["identity"], 0.0, 0.0)
DTYPES = st.sampled_from([np.float32, np.float64])
SEEDS = st.integers(0, 2**32 - 1)
BATCHES = st.integers(1, 90)


def bits(x):
    return np.ascontiguousarray(x).view(f"u{x.itemsize}")


def samples_alone(product, X):
    """What ``product`` makes of every sample by itself, beside each other."""
    columns = [product(np.ascontiguousarray(X[:, b : b + 1])) for b in range(X.shape[1])]
    return np.concatenate(columns, axis=1)


@given(
    seed=SEEDS,
    shape=st.tuples(st.integers(1, 40), st.integers(1, 300)),
    batch=BATCHES,
    dtype=DTYPES,
    weights_dtype=st.sampled_from(comm_dtype.WEIGHTS_DTYPES),
    onto=st.booleans(),
)
def test_dense(seed, shape, batch, dtype, weights_dtype, onto):
    """More inputs than one stretch has, and all widths of slabs."""
    rng = np.random.default_rng(seed)
    product = DenseProduct(rng.standard_normal(shape).astype(dtype), weights_dtype, same_bits=True)
    X, start = (rng.standard_normal((n, batch)).astype(dtype) for n in shape[::-1])
    bias = rng.standard_normal((shape[0], 1)).astype(dtype)

    def multiplied(columns):
        """All samples, or one of them: their inputs above what is added to."""
        X, start = (np.ascontiguousarray(part) for part in np.split(columns, [shape[1]]))
        out = np.empty_like(start)
        scratch = np.empty(product.scratch(X.shape[1]), dtype)
        weights, begin = (product.panels, product.scales), start if onto else bias
        kernels.dense(*weights, X, begin, out, scratch, product.in_order, IDENTITY)
        return out

    columns = np.concatenate([X, start])
    np.testing.assert_array_equal(bits(multiplied(columns)), bits(samples_alone(multiplied, columns)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch", [256, 257, 513, 1000])
def test_dense_in_blocks_of_samples(dtype, batch):
    """As in a batch of a few, and with no more memory than a block needs."""
    rng, activation = np.random.default_rng(batch), Activation("leaky_relu", 0.1)
    W, X, bias = (rng.standard_normal(shape).astype(dtype) for shape in ((70, 400), (400, batch), (70, 1)))
    product = DenseProduct(W, same_bits=True)

    def multiplied(columns):
        out = np.full((70, columns.shape[1]), np.nan, dtype)
        scratch = np.empty(product.scratch(columns.shape[1]), dtype)
        leaky = Epilogue(ACTIVATION_CODES[activation.kind], activation.alpha, activation.beta)
        kernels.dense(product.panels, product.scales, columns, bias, out, scratch, product.in_order, leaky)
        return out

    out, few = multiplied(X), slice(250, 260)
    np.testing.assert_array_equal(bits(out[:, few]), bits(multiplied(np.ascontiguousarray(X[:, few]))))
    np.testing.assert_allclose(out, activate(activation, bias + W @ X), atol=1e-4)
    assert product.scratch(batch) == product.scratch(256)


@given(
    seed=SEEDS,
    shape=st.tuples(st.integers(1, 20), st.integers(1, 120)),
    density=st.floats(0, 1),
    batch=BATCHES,
    dtype=DTYPES,
)
def test_csr(seed, shape, density, batch, dtype):
    rng = np.random.default_rng(seed)
    W = (rng.standard_normal(shape) * (rng.random(shape) < density)).astype(dtype)
    sparse = csr_matrix(W)
    places = np.arange(shape[0]), np.ones(shape[0])
    arrays = sparse.data, *(array.astype(INDEX_DTYPE) for array in (sparse.indices, sparse.indptr, *places))
    X = rng.standard_normal((shape[1], batch)).astype(dtype)
    bias = rng.standard_normal((shape[0], 1)).astype(dtype)

    def multiplied(X):
        out = np.empty((shape[0], X.shape[1]), dtype)
        kernels.csr_same_bits(*arrays, X, bias, out, IDENTITY)
        return out

    found = multiplied(X)
    np.testing.assert_allclose(found, bias + W @ X, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-12)
    np.testing.assert_array_equal(bits(found), bits(samples_alone(multiplied, X)))


def test_csr_of_threads_is_that_of_one():
    rng = np.random.default_rng(0)
    sparse = csr_matrix(rng.standard_normal((50, 40)) * (rng.random((50, 40)) < 0.3), dtype=np.float32)
    places = rng.permutation(50), np.ones(50)
    arrays = sparse.data, *(array.astype(INDEX_DTYPE) for array in (sparse.indices, sparse.indptr, *places))
    X, bias = rng.standard_normal((40, 21), np.float32), rng.standard_normal((50, 1), np.float32)
    variant = REGISTRY.variant(kernels.csr_same_bits)
    results = []
    for function, threads in ((kernels.csr_same_bits, 1), (variant.function, 1), (variant.function, 3)):
        out = np.empty((50, 21), np.float32)
        arguments = (*arrays, X, bias, out, Epilogue(ACTIVATION_CODES["relu"], 0.0, 0.0))
        extra = () if function is kernels.csr_same_bits else variant.share(threads, *arguments)[1]
        function(*arguments, *extra)
        results.append(out.tobytes())
    assert results[0] == results[1] == results[2]


@given(
    seed=SEEDS,
    channels=st.tuples(st.integers(1, 10), st.integers(1, 6)),
    size=st.tuples(st.integers(3, 12), st.integers(3, 40)),
    batch=st.integers(2, 7),
    stride=st.integers(1, 2),
    dtype=DTYPES,
    weights_dtype=st.sampled_from(comm_dtype.WEIGHTS_DTYPES),
)
def test_convolution(seed, channels, size, batch, stride, dtype, weights_dtype):
    rng, (m, n) = np.random.default_rng(seed), channels
    W = rng.standard_normal((m, n * 9)).astype(dtype)
    window = Window2D((3, 3), (stride, stride), (1, 1), (1, 1))
    out_size = tuple((each - 1) // stride + 1 for each in size)
    x = rng.standard_normal((n, batch, *size)).astype(dtype)
    bias = rng.standard_normal((m, 1, 1, 1)).astype(dtype)

    def convolved(x, by_channels=0):
        out = np.empty((m, x.shape[1], *out_size), dtype)
        weights = packed_for_convolution(W, by_channels, weights_dtype)
        region = Region.whole(out_size)
        kernels.convolve_direct(*weights, by_channels, x, window, region, bias, out, IDENTITY)
        return out

    np.testing.assert_array_equal(bits(convolved(x)), bits(samples_alone(convolved, x)))
    np.testing.assert_array_equal(bits(convolved(x)), bits(convolved(x, by_channels=1)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ACTIVATION_CODES)
def test_activations(kind, dtype):
    """Loops in vectors end with numbers one by one, which must come to the same."""
    x = np.abs(np.random.default_rng(1).standard_normal(151)).astype(dtype)
    arguments = ACTIVATION_CODES[kind], 0.3, 0.7
    alone = x.copy()
    for place in range(x.size):
        kernels.activate_in_place(alone[place : place + 1], *arguments)
    for first in range(0, 40, 3):
        for count in (1, 2, 7, 16, 33, 64, 100):
            part = x[first : first + count].copy()
            kernels.activate_in_place(part, *arguments)
            np.testing.assert_array_equal(bits(part), bits(alone[first : first + count]))
