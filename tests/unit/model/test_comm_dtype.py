"""The formats of the wire: bit for bit what NumPy, or plain arithmetic on a single value, says."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from repurpose_hpc.model.comm_dtype import (
    BITS,
    COMM_DTYPES,
    EXACT,
    LARGEST_CODES,
    SCALED,
    STEPS,
    block_bytes,
    decode,
    encode,
    received,
    scales_of,
    steps_of,
)

ROUNDING = COMM_DTYPES[1:]
FLOATS = st.floats(width=32)
TABLES = arrays(np.float32, array_shapes(max_dims=3, max_side=5), elements=FLOATS)
LARGEST = np.finfo(np.float32).max
TINY = np.float32(1e-45)


def scales(values):
    """One for every neuron of ``values``, some of them 0."""
    with np.errstate(invalid="ignore"):
        largest = np.abs(np.nan_to_num(values)).max(axis=tuple(range(1, values.ndim)))
    largest[::3] = 0
    return scales_of(largest)


def test_exact_wire_does_not_touch_the_values():
    values = np.array([1 / 3, np.nan, -0.0, 1e-320])
    assert received(values, EXACT) is values


@given(TABLES, st.sampled_from(ROUNDING))
def test_what_arrives_travels_once_more_unchanged(values, wire):
    scale = scales(values)
    once = received(values, wire, scale)
    assert once.shape == values.shape and once.dtype == np.float32
    np.testing.assert_array_equal(received(once, wire, scale), once)
    assert 8 * encode(values, wire, scale).itemsize == (8 if wire in SCALED else BITS[wire])
    np.testing.assert_array_equal(np.isnan(once), np.isnan(values))


@given(FLOATS)
def test_bfloat16_is_the_nearest_with_its_last_bit_zero_in_ties(value):
    value = np.float32(value)
    code = encode(np.array([value]), "bfloat16")[0]
    arrived = decode(np.array([code]), "bfloat16")[0]
    if not math.isfinite(value):
        assert arrived == value or (np.isnan(arrived) and np.isnan(value))
        return
    below = np.uint32(value.view(np.uint32) & 0xFFFF0000)
    ends = [below, np.uint32(below + 0x10000)]
    # The first value beyond the largest is as far away as it would be with a larger exponent.
    exact = [_value(bits) for bits in ends]
    distances = [abs(float(value) - end) for end in exact]
    nearest = [bits for bits, distance in zip(ends, distances, strict=True) if distance == min(distances)]
    wanted = nearest[0] if len(nearest) == 1 else next(bits for bits in nearest if not bits >> 16 & 1)
    assert code == wanted >> 16


def _value(bits):
    value = float(np.uint32(bits).view(np.float32))
    return math.copysign(2.0**128, value) if math.isinf(value) else value


@given(TABLES)
def test_float16_is_that_of_numpy_within_its_range(values):
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).astype(np.float32)
    expected = np.where(np.isinf(expected), np.copysign(np.float32(65504), expected), expected)
    np.testing.assert_array_equal(received(values, "float16"), expected)


@given(FLOATS, st.floats(0, 2.0**100, width=32))
def test_int8_is_the_nearest_multiple_within_127(value, scale):
    value, scale = np.float32(value), np.float32(scale)
    arrived = received(np.array([value]), "int8", np.array([scale]))[0]
    if np.isnan(value):
        assert np.isnan(arrived)
    elif scale == 0:
        assert arrived == 0
    else:
        with np.errstate(over="ignore", under="ignore"):
            steps = min(max(float(value / scale), -127.0), 127.0)
        assert arrived == np.float32(round(steps)) * scale  # Python rounds ties to even


@pytest.mark.parametrize(
    ("wire", "sent", "code"),
    [
        ("bfloat16", 1 + 2**-8, 0x3F80),  # a tie, down to even
        ("bfloat16", 1 + 3 * 2**-8, 0x3F82),  # a tie, up to even
        ("bfloat16", LARGEST, 0x7F80),
        ("bfloat16", -np.inf, 0xFF80),
        ("bfloat16", TINY, 0),
        ("bfloat16", -0.0, 0x8000),
        ("float16", 1 + 2**-11, 0x3C00),
        ("float16", 1 + 3 * 2**-11, 0x3C02),
        ("float16", 65519.0, 0x7BFF),
        ("float16", np.inf, 0x7BFF),
        ("float16", -1e30, 0xFBFF - 0x10000),
        ("float16", 2**-24, 1),  # its smallest
        ("float16", 2**-25, 0),  # a tie
        ("int8", 0.5, 0),
        ("int8", 1.5, 2),
        ("int8", -2.5, -2),
        ("int8", 1e30, 127),
        ("int8", -np.inf, -127),
        ("int8", np.nan, -128),
    ],
)
def test_codes(wire, sent, code):
    assert encode(np.array([sent], np.float32), wire, np.ones(1, np.float32))[0] == code


@pytest.mark.parametrize("pattern", [0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFC00000])
@pytest.mark.parametrize("wire", ROUNDING)
def test_no_bit_pattern_of_nan_is_lost(wire, pattern):
    value = np.array([pattern], np.uint32).view(np.float32)
    assert np.isnan(received(value, wire, np.ones(1, np.float32)))


def test_float64_is_cast_to_float32_first():
    # Rounded at once it would be above the tie; as a float32 it is the tie.
    value = np.array([1 + 2**-8 + 2**-40])
    assert received(value, "bfloat16")[0] == 1


def test_scales_are_per_neuron_on_vectors_and_maps():
    scale = np.array([1, 0, 0.5], np.float32)
    values = np.full((3, 2, 4), 1.3)
    np.testing.assert_array_equal(received(values, "int8", scale)[:, 1, 2], np.array([1, 0, 1.5], np.float32))
    np.testing.assert_array_equal(received(values[:, :, 0], "int8", scale)[:, 0], [1, 0, 1.5])


@given(arrays(np.float32, (4, 6), elements=st.floats(-(2.0**15), 2.0**15, width=32)))
def test_errors_are_at_most_half_a_step(values):
    scale = scales_of(np.abs(values).max(axis=1))
    largest = np.abs(values).max(axis=1, keepdims=True)
    for wire in ROUNDING:
        size = largest if wire in SCALED else np.abs(values)
        # Subnormal steps are absolute.
        allowed = 0.5 * STEPS[wire] * size * (1 + 1e-5) + 2.0**-25
        assert (np.abs(received(values, wire, scale) - values) <= allowed).all()


@given(st.integers(-20, 20), st.floats(0, 2.0**20, width=32))
def test_int4_is_the_nearest_of_fifteen_multiples(multiple, scale):
    scale = np.array([scale], np.float32)
    step = steps_of(scale, "int4")
    np.testing.assert_allclose(step, scale * 127 / 7, rtol=1e-6)
    code = encode(multiple * step + step / 3, "int4", scale)
    expected = np.clip(multiple, -7, 7) if step[0] > 1e-30 else code
    assert code == expected and decode(np.array([-8], np.int8), "int4", scale) != 0


@pytest.mark.parametrize("wire", SCALED)
def test_scaled_formats_reach_to_the_largest(wire):
    largest = np.array([3.0, 1e-20, 5e6, LARGEST / 2], np.float32)
    arrived = received(np.stack([largest, -largest], axis=1), wire, scales_of(largest))
    np.testing.assert_allclose(arrived[:, 0], largest, rtol=1e-6)
    np.testing.assert_array_equal(arrived[:, 0], -arrived[:, 1])
    nan = received(np.full((1, 1), np.nan), wire, np.ones(1, np.float32))
    assert np.isnan(nan).all() and encode(nan, wire, np.ones(1, np.float32)) == -LARGEST_CODES[wire] - 1


@given(TABLES, st.sampled_from(COMM_DTYPES), st.randoms(use_true_random=False))
def test_outliers_arrive_in_16_bits_in_scaled_formats(values, wire, random):
    scale, outliers = scales(values), np.array([random.random() < 0.5 for _ in values])
    found = received(values, wire, scale, outliers)
    wide = outliers & (wire in SCALED)
    np.testing.assert_array_equal(found[wide], received(values[wide], "float16"))
    np.testing.assert_array_equal(found[~wide], received(values, wire, scale)[~wide])
    np.testing.assert_array_equal(
        received(values, wire, scale, np.zeros(len(values), bool)), received(values, wire, scale)
    )


@pytest.mark.parametrize(
    ("wire", "expected"),
    [(EXACT, (0, 4, 20)), ("float16", (0, 2, 10)), ("int8", (0, 2, 7)), ("int4", (0, 2, 6))],
)
def test_bytes_of_messages(wire, expected):
    """Of none, of one outlier, and of five with two outliers, of which int4 leaves half a byte empty."""
    assert tuple(block_bytes(np.array([0, 1, 5]), np.array([0, 1, 2]), wire)) == expected
