"""Dense and CSR products, and the epilogue of a BLAS product, against NumPy."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc import kernels
from repurpose_hpc.kernels import ACTIVATION_CODES, INDEX_DTYPE, Epilogue
from repurpose_hpc.kernels.llvm.sparse_rows import _last_vectors
from repurpose_hpc.model import comm_dtype
from repurpose_hpc.model.activations import KINDS, Activation, activate, lipschitz
from repurpose_hpc.runtime.lowering.blocks import CsrProduct

# The others may make any rounding error large.
KINDS_WITH_LIPSCHITZ = [kind for kind in KINDS if np.isfinite(lipschitz(Activation(kind)))]
IDENTITY = Epilogue(ACTIVATION_CODES["identity"], 0.0, 0.0)
TOLERANCE = {"float32": 2e-5, "float64": 1e-13}


@st.composite
def problems(draw):
    """(W, X, bias, activation): any shape including empty ones, half of the weights zero."""
    rows, columns = (draw(st.integers(0, 11)) for _ in range(2))
    # One to four vectors of samples, or parts of them, and more.
    batch = draw(st.integers(0, 11) | st.integers(12, 90))
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    activation = Activation(draw(st.sampled_from(KINDS_WITH_LIPSCHITZ)), 0.1, 0.7)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    W = rng.standard_normal((rows, columns)) * (rng.random((rows, columns)) < 0.5)
    X, bias = rng.standard_normal((columns, batch)), rng.standard_normal(rows)
    return W.astype(dtype), X.astype(dtype), bias.astype(dtype), activation


def plain(kernel):
    return getattr(kernel, "py_func", kernel)  # with NUMBA_DISABLE_JIT it is plain already


@pytest.fixture(scope="module", params=["compiled", "plain"])
def version(request):
    return {"compiled": lambda kernel: kernel, "plain": plain}[request.param]


def epilogue(activation):
    return Epilogue(ACTIVATION_CODES[activation.kind], activation.alpha, activation.beta)


def csr_arrays(W, pointer_dtype=INDEX_DTYPE):
    data, indices, indptr, order, alike = CsrProduct(W).arrays
    return data, indices, indptr.astype(pointer_dtype), order, alike


def assert_close(actual, expected):
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[actual.dtype.name])


def as_panels(codes, dtype):
    step = kernels.panel_rows(dtype)
    strips = (codes[first : first + step] for first in range(0, len(codes), step))
    panels = kernels.aligned((-(-len(codes) // step), codes.shape[1], step), codes.dtype)
    kernels.pack_panels(strips, panels)
    return panels


def dense(kernel, W, X, start, out, epilogue, scales=None, in_order=0):
    """``W`` real, or codes of float32 numbers."""
    scratch = np.full(kernels.dense_scratch(W.shape[1], X.shape[1], X.dtype), np.nan, X.dtype)
    scales = np.empty(0, X.dtype) if scales is None else scales
    kernel(as_panels(W, X.dtype), scales, X, start, out, scratch, in_order, epilogue)


def dense_vector(kernel, W, x, start, out, epilogue, in_order=0):
    """One sample, by the convention of ``csr_vector``."""
    dense(kernel, W, x[:, None], start[:, None], out[:, None], epilogue, in_order=in_order)


def csr(kernel, W, *arguments):
    kernel(*csr_arrays(W), *arguments)


def csr_wide_pointers(kernel, W, *arguments):
    kernel(*csr_arrays(W, np.uint64), *arguments)


FORMATS = {
    "dense": (dense_vector, kernels.dense, dense, kernels.dense),
    "in_order": (partial(dense_vector, in_order=1), kernels.dense, partial(dense, in_order=1), kernels.dense),
    "csr": (csr, kernels.csr_vector, csr, kernels.csr_batch),
    "csr_uint64": (csr_wide_pointers, kernels.csr_vector, csr_wide_pointers, kernels.csr_batch),
}


@pytest.fixture(scope="module", params=list(FORMATS))
def products(request, version):
    """(vector, batch): product functions of (W, x, start, out, epilogue)."""
    call, vector, call_batch, batch = FORMATS[request.param]
    return (lambda *a: call(version(vector), *a)), (lambda *a: call_batch(version(batch), *a))


@given(problem=problems())
def test_vector_from_a_bias(products, problem):
    W, X, bias, activation = problem
    x = np.ascontiguousarray(X[:, 0]) if X.shape[1] else np.ones(X.shape[0], X.dtype)
    out = np.full_like(bias, np.nan)
    products[0](W, x, bias, out, epilogue(activation))
    assert_close(out, activate(activation, bias + W @ x))


@given(problem=problems())
def test_vector_onto_itself(products, problem):
    W, _, bias, activation = problem
    x, out = np.ones(W.shape[1], W.dtype), bias.copy()
    products[0](W, x, out, out, epilogue(activation))
    assert_close(out, activate(activation, bias + W @ x))


@given(problem=problems())
def test_batch_from_a_bias(products, problem):
    W, X, bias, activation = problem
    out = np.full((W.shape[0], X.shape[1]), np.nan, W.dtype)
    products[1](W, X, bias[:, None], out, epilogue(activation))
    assert_close(out, activate(activation, bias[:, None] + W @ X))


@given(problem=problems())
def test_own_part_then_ghosts(products, problem):
    """The caller's use: bias + own columns during the exchange, then the ghosts and the activation."""
    W, X, bias, activation = problem
    own = W.shape[1] // 2
    W_own, W_ghost = np.ascontiguousarray(W[:, :own]), np.ascontiguousarray(W[:, own:])
    out = np.full((W.shape[0], X.shape[1]), np.nan, W.dtype)
    products[1](W_own, X[:own], bias[:, None], out, IDENTITY)
    products[1](W_ghost, X[own:], out, out, epilogue(activation))
    assert_close(out, activate(activation, bias[:, None] + W @ X))


@given(problem=problems())
def test_finish_a_blas_product(version, problem):
    W, X, bias, activation = problem
    product, onto = W @ X, np.ones((W.shape[0], X.shape[1]), W.dtype)
    expected_onto = activate(activation, onto + product)
    expected = activate(activation, bias[:, None] + product)
    version(kernels.finish)(onto, product, onto, epilogue(activation))
    version(kernels.finish)(bias[:, None], product, product, epilogue(activation))
    assert_close(onto, expected_onto)
    assert_close(product, expected)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("rows", "samples"), [(64, 4), (65, 21), (66, 70), (67, 149), (311, 5)])
def test_leftovers_at_size(dtype, rows, samples):
    """Large enough for the vectorised loops and their remainders to be entered."""
    rng = np.random.default_rng(rows)
    W, X = rng.standard_normal((rows, 301)).astype(dtype), rng.standard_normal((301, samples)).astype(dtype)
    scale = W.dtype.type(1 / 301)
    start = np.zeros((rows, 1), dtype)
    for call, vector, call_batch, batch in FORMATS.values():
        out, column = np.empty((rows, samples), dtype), np.empty(rows, dtype)
        call_batch(batch, W, X, start, out, IDENTITY)
        call(vector, W, X[:, 3].copy(), start[:, 0], column, IDENTITY)
        assert_close(out * scale, (W @ X) * scale)
        assert_close(column * scale, (W @ X[:, 3]) * scale)


@pytest.mark.parametrize("stored", ["bfloat16", "float16", "int8"])
@given(problem=problems())
def test_stored_weights_are_expanded(version, stored, problem):
    """The product is that of the weights that the codes stand for."""
    W, X, bias, activation = problem
    scale = comm_dtype.scales_of(np.abs(W).max(axis=1, initial=0)) if stored == "int8" else None
    codes = comm_dtype.encode(W, stored, scale)
    if scale is None:
        W, scales = comm_dtype.decode(codes, stored).astype(X.dtype), None
    else:
        scales = scale.astype(X.dtype)
        W = scales[:, None] * codes
    out = np.full((W.shape[0], X.shape[1]), np.nan, X.dtype)
    dense(version(kernels.dense), codes, X, bias[:, None], out, epilogue(activation), scales=scales)
    assert_close(out, activate(activation, bias[:, None] + W @ X))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_weight_is_seen(products, bad):
    W = np.ones((5, 6), np.float32)
    W[2, 3] = bad
    out = np.zeros(5, np.float32)
    products[0](W, np.ones(6, np.float32), out, out, Epilogue(ACTIVATION_CODES["relu"], 0.0, 0.0))
    np.testing.assert_array_equal(out, np.array([6, 6, bad, 6, 6], np.float32))


@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
@pytest.mark.parametrize("has_masks", [True, False])
def test_every_last_vector_of_a_sparse_product_is_made(lanes, has_masks):
    """Also of processors that are not this one."""
    if has_masks and lanes < 4:
        pytest.skip("vectors with masks have four numbers at least")
    made = _last_vectors(lanes, has_masks)
    assert all(width > 0 for width, _, _ in made)
    for columns in range(1, 3 * lanes):
        fitting = [each for each in made if each[1] <= columns and (each[2] is None or columns <= each[2])]
        ((width, _, _),) = fitting
        assert width >= min(columns, lanes)


@given(n=st.integers(0, 50), batch=st.integers(1, 100), dtype=st.sampled_from([np.float32, np.float64]))
def test_smaller_batches_need_no_more_memory(n, batch, dtype):
    sizes = [kernels.dense_scratch(n, each, np.dtype(dtype)) for each in (batch, batch + 1)]
    assert sizes[0] <= sizes[1]


@pytest.mark.parametrize("batch", [1, 2, 3, 12, 13, 64, 257])
def test_scratch_has_room_for_slabs_and_sums(batch):
    """Samples of all inputs lie in slabs; a group of panels has a sum for each row and sample."""
    n, dtype = 7, np.dtype(np.float32)
    R = kernels.panel_rows(dtype)
    slabs, tiles = kernels.slabs_size(n, batch), kernels.tiles_size(n, batch, R)
    assert slabs >= n * batch and tiles >= R * batch
    assert kernels.dense_scratch(n, batch, dtype) == slabs + tiles


@given(
    seed=st.integers(0, 2**32 - 1),
    kinds=st.integers(1, 4),
    rows=st.integers(1, 40),
    batch=st.sampled_from([1, 16, 63, 64, 65, 200]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_rows_that_are_alike_are_multiplied_together(seed, kinds, rows, batch, dtype):
    rng = np.random.default_rng(seed)
    pattern = (rng.random((kinds, 30)) < 0.3)[rng.integers(kinds, size=rows)]
    W = (rng.standard_normal((rows, 30)) * pattern).astype(dtype)
    X, bias = rng.standard_normal((30, batch)).astype(dtype), rng.standard_normal((rows, 1)).astype(dtype)
    out = np.empty((rows, batch), dtype)
    clip = epilogue(Activation("clip", -0.5, 2.0))
    kernels.csr_batch(*csr_arrays(W), X, bias, out, clip)
    assert_close(out, np.clip(W @ X + bias, -0.5, 2.0).astype(dtype))
