"""Pack and unpack against NumPy indexing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc import kernels
from repurpose_hpc.kernels import INDEX_DTYPE


@st.composite
def transfers(draw):
    """(X, rows, buffer): rows in any order, possibly none, possibly repeated; one sample or several."""
    neurons, batch = draw(st.integers(1, 9)), draw(st.integers(0, 5))
    rows = np.array(draw(st.lists(st.integers(0, neurons - 1), max_size=12)), INDEX_DTYPE)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    X, buffer = rng.standard_normal((neurons, batch)), rng.standard_normal((rows.size, batch))
    return X.astype(dtype), rows, buffer.astype(dtype)


@pytest.fixture(scope="module", params=["compiled", "plain"])
def version(request):
    if request.param == "compiled":
        return lambda kernel: kernel
    return lambda kernel: getattr(kernel, "py_func", kernel)


@given(transfer=transfers())
def test_pack(version, transfer):
    X, rows, buffer = transfer
    version(kernels.pack)(X, rows, buffer)
    np.testing.assert_array_equal(buffer, X[rows])


@given(transfer=transfers(), in_place=st.booleans(), chosen=st.sets(st.integers(0, 4)))
def test_keep_samples(version, transfer, in_place, chosen):
    X, _, _ = transfer
    samples = np.array(sorted(sample for sample in chosen if sample < X.shape[1]), np.int64)
    expected = X[:, samples]
    memory = X.reshape(-1) if in_place else np.empty_like(X).reshape(-1)
    kept = memory[: expected.size].reshape(expected.shape)
    version(kernels.keep_samples)(X, samples, kept)
    np.testing.assert_array_equal(kept, expected)


@given(transfer=transfers())
def test_unpack(version, transfer):
    X, rows, buffer = transfer
    expected = X.copy()
    for row, values in zip(rows, buffer, strict=True):
        expected[row] = values
    version(kernels.unpack)(buffer, rows, X)
    np.testing.assert_array_equal(X, expected)


def test_copy_blocks(version):
    """Of any length and alignment, none among them."""
    source, target = np.arange(100, dtype=np.uint8), np.zeros(100, np.uint8)
    places = [(0, 10, 7), (50, 3, 0), (31, 60, 33)]
    blocks = [(source.ctypes.data + a, target.ctypes.data + b, size) for a, b, size in places]
    version(kernels.copy_blocks)(np.array(blocks))
    expected = np.zeros_like(target)
    for a, b, size in places:
        expected[b : b + size] = source[a : a + size]
    np.testing.assert_array_equal(target, expected)


@given(transfer=transfers())
def test_unpack_add_in_order(version, transfer):
    X, rows, buffer = transfer
    expected = X.copy()
    np.add.at(expected, rows, buffer)
    version(kernels.unpack_add)(buffer, rows, X)
    np.testing.assert_array_equal(X, expected)  # to the last bit: the order of additions is fixed
