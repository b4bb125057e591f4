"""Kernels whose rows threads share: the same numbers, to the last bit, as those of a single thread."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.covering import covering
from repurpose_hpc import kernels
from repurpose_hpc.kernels import ACTIVATION_CODES, INDEX_DTYPE, Epilogue
from repurpose_hpc.kernels.products.dense import dense_threads
from repurpose_hpc.kernels.products.shares import row_shares
from repurpose_hpc.kernels.registry import REGISTRY
from repurpose_hpc.model.comm_dtype import EXACT, INT8
from repurpose_hpc.model.operations import Window
from repurpose_hpc.runtime.buffers import Scratch
from repurpose_hpc.runtime.lowering.blocks import COMPUTE, CsrProduct, DenseProduct
from repurpose_hpc.runtime.lowering.convolution import Direct
from repurpose_hpc.runtime.schedule import threads as parallel

EPILOGUE = Epilogue(ACTIVATION_CODES["relu"], 0.0, 0.0)


@given(work=st.lists(st.integers(0, 9), max_size=40), threads=st.integers(1, 9))
def test_shares_cover_all_rows_once_and_are_fair(work, threads):
    before = np.concatenate([[0], np.cumsum(work, dtype=np.int64)])
    shares = row_shares(before.astype(INDEX_DTYPE), threads)
    assert shares[0] == 0 and shares[-1] == len(work) and len(shares) == threads + 1
    assert (np.diff(shares) >= 0).all()
    most = max(work, default=0)
    assert np.diff(before[shares]).max() <= -(-int(before[-1]) // threads) + most


@pytest.fixture
def sharing_all(monkeypatch):
    """Rows are shared however few they are."""
    monkeypatch.setattr(parallel, "LEAST_WORK", 0)


def results(product, X, columns, m, threads):
    """act(bias + W X), then act(that + W X)."""
    rng = np.random.default_rng(1)
    bias, out = rng.standard_normal((m, 1)).astype(X.dtype), np.full((m, columns), np.nan, X.dtype)
    scratch = Scratch(X.dtype, product.scratch(columns))
    for start in (bias, out):
        for phase, function, arguments in parallel.on_threads(
            product.calls(X, start, out, scratch, EPILOGUE), threads
        ):
            assert phase == COMPUTE
            assert (REGISTRY.variant(function) is not None) is (threads == 1)
            function(*arguments)
    return out


PRODUCTS = {"dense": DenseProduct, "csr": CsrProduct, "int8": lambda W: DenseProduct(W, "int8")}
BATCHES = (1, 2, 8, 11, 12, 13, 40, 600)
SHAPES = ((0, 4), (1, 1), (7, 30), (100, 33), (129, 0), (70, 400))


@pytest.mark.parametrize(
    ("batch", "shape", "form", "threads", "dtype"),
    covering(BATCHES, SHAPES, PRODUCTS, (2, 3, 5), (np.float32, np.float64)),
)
def test_products(sharing_all, batch, shape, form, threads, dtype):
    m, n = shape
    rng = np.random.default_rng(m)
    W = (rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.6)).astype(dtype)
    X = rng.standard_normal((n, batch)).astype(dtype)
    product = PRODUCTS[form](W)
    alone, together = (results(product, X, batch, m, each) for each in (1, threads))
    assert alone.tobytes() == together.tobytes()
    assert np.isfinite(together).all()


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("m", [1, 9, 40])
@pytest.mark.parametrize("weights_dtype", [EXACT, INT8])
def test_convolutions(sharing_all, weights_dtype, m, threads):
    rng = np.random.default_rng(m)
    window = Window((9, 7), (3, 2), (2, 1), (1, 1), (1, 0), (5, 6))
    W, X = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, 5 * 6), (5, 3, 63)))
    product = Direct(window, W, weights_dtype)
    alone, together = (results(product, X, 3 * 30, m, each) for each in (1, threads))
    assert alone.tobytes() == together.tobytes()
    assert np.isfinite(together).all()


def test_little_work_is_left_to_one_thread():
    small, large = (DenseProduct(np.ones((n, n), np.float32)) for n in (16, 512))
    for product, n, kernel in ((small, 16, kernels.dense), (large, 512, dense_threads)):
        X = np.ones((n, 1), np.float32)
        scratch = Scratch(X.dtype, product.scratch(1))
        (call,) = parallel.on_threads(product.calls(X, X, np.empty_like(X), scratch, EPILOGUE), 2)
        assert call[1] is kernel
