"""Messages without zeros: their form against NumPy, and the way back, bit for bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc import kernels


@pytest.fixture(scope="module", params=["compiled", "plain"])
def version(request):
    if request.param == "compiled":
        return lambda kernel: kernel
    return lambda kernel: getattr(kernel, "py_func", kernel)


@st.composite
def numbers(draw):
    """Unsigned, (n,), with any bits in those that are not zero; n around multiples of the width, or 0."""
    count = draw(st.sampled_from([0, 1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 200]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64]))
    kept = rng.random(count) < draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    return rng.integers(0, np.iinfo(dtype).max, count, dtype, endpoint=True) * kept


def squeezed(values: np.ndarray) -> np.ndarray:
    """The squeezed form by NumPy."""
    bits = np.packbits(values != 0, bitorder="little").tobytes()
    padded = bits + bytes(-len(bits) % values.itemsize)
    return np.concatenate([np.frombuffer(padded, values.dtype), values[values != 0]])


@given(values=numbers())
def test_the_shorter_form_and_back(version, values):
    message = np.full_like(values, 99)
    length = version(kernels.squeeze)(values, message)
    short = squeezed(values)
    assert length == min(short.size, values.size)
    np.testing.assert_array_equal(message[:length], short if short.size < values.size else values)

    message[length:] = 77  # of an earlier message
    back = np.full_like(values, 55)
    version(kernels.expand)(message, length, back)
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_keep_their_bits(version, dtype):
    values = np.zeros(100, dtype)
    values[:6] = -0.0, np.nan, -np.nan, np.inf, np.finfo(dtype).tiny / 2, 1
    unsigned = values.view(f"u{values.itemsize}")
    message, back = np.empty_like(unsigned), np.empty_like(unsigned)
    length = version(kernels.squeeze)(unsigned, message)
    assert length == -(-100 // (8 * values.itemsize)) + 6
    version(kernels.expand)(message, length, back)
    assert back.tobytes() == values.tobytes()
