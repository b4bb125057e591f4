"""Codes made and read by the kernels against those of the model, bit for bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc import kernels
from repurpose_hpc.kernels import INDEX_DTYPE
from repurpose_hpc.model import comm_dtype

CODES = {"bfloat16": np.uint16, "float16": np.int16, "int8": np.int8}


def plain(kernel):
    return getattr(kernel, "py_func", kernel)  # with NUMBA_DISABLE_JIT it is plain already


@pytest.mark.parametrize("version", [lambda kernel: kernel, plain], ids=["compiled", "plain"])
@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("name", CODES)
@given(
    bits=st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6), scale=st.floats(0, 2.0**20, width=32)
)
def test_codes_are_those_of_the_model(version, real, name, bits, scale):
    """All float32 numbers, among them NaN, infinities and subnormal ones."""
    X = np.array(bits, np.uint32).view(np.float32).reshape(3, 2)
    rows, scales = np.array([2, 0, 2], INDEX_DTYPE), np.array([scale, 0, 1], np.float32)
    codes, back = np.zeros((3, 2), CODES[name]), np.zeros((3, 2), real)
    with np.errstate(all="ignore"):
        version(kernels.pack_codes)(X.astype(real), rows, scales, codes)
        version(kernels.unpack_codes)(codes, scales, back)
    np.testing.assert_array_equal(codes, comm_dtype.encode(X[rows], name, scales))
    np.testing.assert_array_equal(back, comm_dtype.decode(codes, name, scales).astype(real))
