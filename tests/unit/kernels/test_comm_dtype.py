"""Codes made and read by the kernels against those of the model, bit for bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc import kernels
from repurpose_hpc.kernels import INDEX_DTYPE
from repurpose_hpc.model import comm_dtype
from repurpose_hpc.runtime.exchange.comm_dtype import CommDtype

CODES = {"bfloat16": np.uint16, "float16": np.int16}
SCALED = ["int8", "int4"]
VERSIONS = [lambda kernel: kernel, lambda kernel: plain(kernel)]
NUMBERS = st.integers(0, 2**32 - 1)


def plain(kernel):
    return getattr(kernel, "py_func", kernel)  # with NUMBA_DISABLE_JIT it is plain already


@pytest.mark.parametrize("version", VERSIONS, ids=["compiled", "plain"])
@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("name", CODES)
@given(bits=st.lists(NUMBERS, min_size=6, max_size=6))
def test_codes_are_those_of_the_model(version, real, name, bits):
    """All float32 numbers, among them NaN, infinities and subnormal ones."""
    X = np.array(bits, np.uint32).view(np.float32).reshape(3, 2)
    rows = np.array([2, 0, 2], INDEX_DTYPE)
    codes, back = np.zeros((3, 2), CODES[name]), np.zeros((3, 2), real)
    with np.errstate(all="ignore"):
        version(kernels.pack_codes)(X.astype(real), rows, codes)
        version(kernels.unpack_codes)(codes, back)
    np.testing.assert_array_equal(codes, comm_dtype.encode(X[rows], name))
    np.testing.assert_array_equal(back, comm_dtype.decode(codes, name).astype(real))


@st.composite
def messages(draw):
    """Numbers, (neurons, batch), scales and outliers of rows of them, and a name of a scaled format."""
    neurons, batch, count = (draw(st.integers(1, most)) for most in (4, 3, 7))
    bits = draw(st.lists(NUMBERS, min_size=neurons * batch, max_size=neurons * batch))
    X = np.array(bits, np.uint32).view(np.float32).reshape(neurons, batch)
    if draw(st.booleans()):  # numbers of the size of codes
        X = np.array(bits, np.float32).reshape(neurons, batch) / 2**28 - 8
    of_each = [
        draw(st.lists(each, min_size=count, max_size=count))
        for each in (st.integers(0, neurons - 1), st.floats(0, 2.0**20, width=32), st.booleans())
    ]
    rows, scales, is_wide = map(np.array, of_each, (INDEX_DTYPE, np.float32, bool))
    return X, rows, scales, is_wide, draw(st.sampled_from(SCALED))


def places_of(is_wide, name):
    """Where neurons are and what they take, in halves of bytes; outliers first. Also all that they take."""
    halves = np.where(is_wide, 4, 2 if name == "int8" else 1)
    order = np.argsort(~is_wide, kind="stable")
    places = np.empty(is_wide.size, INDEX_DTYPE)
    places[order] = np.cumsum(halves[order]) - halves[order]
    return places, halves.astype(INDEX_DTYPE), -(-halves.sum() // 2)


def halves_of(codes):
    """The halves of bytes of codes of 16 bits, or of 8, from the lowest to the highest, (halves, batch)."""
    bits = codes.view(f"u{codes.itemsize}")
    return [bits >> shift & 15 for shift in range(0, 8 * codes.itemsize, 4)]


@pytest.mark.parametrize("version", VERSIONS, ids=["compiled", "plain"])
@pytest.mark.parametrize("real", [np.float32, np.float64])
@given(case=messages())
def test_messages_of_bytes_have_the_codes_of_the_model(version, real, case):
    X, rows, scales, is_wide, name = case
    places, halves, size = places_of(is_wide, name)
    steps = comm_dtype.steps_of(scales, name)
    message, back = np.full((size, X.shape[1]), 77, np.int8), np.zeros((rows.size, X.shape[1]), real)
    with np.errstate(all="ignore"):
        version(kernels.pack_bytes)(X.astype(real), rows, steps, places, halves, message)
        version(kernels.unpack_bytes)(message, steps, places, halves, back)
        arrived = comm_dtype.received(X[rows], name, scales, is_wide)
    np.testing.assert_array_equal(back, arrived.astype(real))
    expected = np.zeros((2 * size, X.shape[1]), np.uint8)
    for k, (place, taken) in enumerate(zip(places, halves, strict=True)):
        one = slice(k, k + 1)
        codes = comm_dtype.encode(X[rows[one]], "float16" if is_wide[k] else name, scales[one])
        expected[place : place + taken] = np.concatenate(halves_of(codes))[:taken]
    np.testing.assert_array_equal(message.view(np.uint8), expected[::2] | expected[1::2] << 4)


def test_an_outlier_has_no_step_and_a_pair_shares_a_byte():
    """By hand: 1000 in float16 is 0x63d0, and 2 and -3 steps of 127/7 are 0xd2."""
    X = np.array([[2.0], [1000.0], [-3.0], [7.0]], np.float32)
    X[[0, 2, 3]] *= 127 / 7
    rows, scales = np.arange(4, dtype=INDEX_DTYPE), np.array([1, 0, 1, 1], np.float32)
    places, halves, size = places_of(np.array([False, True, False, False]), "int4")
    message, back = np.zeros((size, 1), np.int8), np.zeros((4, 1), np.float32)
    steps = comm_dtype.steps_of(scales, "int4")
    kernels.pack_bytes(X, rows, steps, places, halves, message)
    assert message.tobytes() == bytes([0xD0, 0x63, 0xD2, 0x07])
    kernels.unpack_bytes(message, steps, places, halves, back)
    np.testing.assert_allclose(back, X, rtol=1e-6)


@pytest.mark.parametrize("version", VERSIONS, ids=["compiled", "plain"])
@given(
    seed=st.integers(0, 99),
    counts=st.lists(st.integers(0, 19), min_size=1, max_size=3),
    batch=st.integers(0, 3),
)
def test_bits_arrive_as_they_are_eight_to_a_byte(version, seed, counts, batch):
    rng = np.random.default_rng(seed)
    counts = np.array(counts)
    neurons = rng.integers(0, 5, counts.sum())
    X = rng.integers(0, 2, (5, batch)).astype(np.float32)
    layout = CommDtype(comm_dtype.BIT, ()).layout(neurons, counts)
    np.testing.assert_array_equal(layout.rows, comm_dtype.block_bytes(counts, 0 * counts, comm_dtype.BIT))
    message = np.full((layout.rows.sum(), batch), -1, np.int8)
    back = np.full((counts.sum(), batch), np.nan, np.float32)
    version(kernels.pack_bits)(X, neurons.astype(INDEX_DTYPE), layout.places, message)
    version(kernels.unpack_bits)(message, layout.places, back)
    np.testing.assert_array_equal(back, X[neurons])
    first = 0
    for rows, count, end in zip(layout.rows, counts, np.cumsum(counts), strict=True):
        bits = np.unpackbits(message[first : first + rows].view(np.uint8), axis=0, bitorder="little")
        first += rows
        of_rank = np.concatenate([X[neurons[end - count : end]], np.zeros((8 * rows - count, batch))])
        np.testing.assert_array_equal(bits, of_rank)
