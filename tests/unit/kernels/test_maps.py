"""Element-wise steps, windows, pooling and convolutions of feature maps, against plain NumPy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.stored_weights import packed_for_convolution, rounded
from repurpose_hpc import kernels
from repurpose_hpc.kernels import ACTIVATION_CODES, COMBINATION_CODES, Epilogue, Region, Window2D
from repurpose_hpc.kernels.llvm.map_rows import add_row
from repurpose_hpc.model.activations import Activation, activate
from repurpose_hpc.model.comm_dtype import EXACT, WEIGHTS_DTYPES

TOLERANCE = {"float32": 3e-5, "float64": 1e-13}
LEAKY = Activation("leaky_relu", 0.1)
EPILOGUE = Epilogue(ACTIVATION_CODES["leaky_relu"], 0.1, 0.0)
OPERATIONS = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "mask": lambda a, b: np.where(a != 0, b, b.dtype.type(0)),
}

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@pytest.fixture(scope="module", params=["compiled", "plain"])
def version(request):
    if request.param == "compiled":
        return lambda kernel: kernel
    return lambda kernel: getattr(kernel, "py_func", kernel)


@st.composite
def windows(draw):
    """(x, kernel, strides, dilations, pads, output shape, rng); the last window may be cut at the border."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kernel, strides, dilations = draw(pairs), draw(pairs), draw(pairs)
    pads = tuple(draw(st.integers(0, size - 1)) for size in kernel)
    height, width = draw(st.integers(1, 9)), draw(st.sampled_from([1, 2, 5, 8, 33]))
    seen = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    # From one that begins in the map at the latest, down to one that fits.
    most = [(size + pad - 1) // s + 1 for size, pad, s in zip((height, width), pads, strides, strict=True)]
    fits = [
        (size + 2 * pad - window) // s + 1
        for size, pad, window, s in zip((height, width), pads, seen, strides, strict=True)
    ]
    shape = tuple(min(max(f + draw(st.integers(0, 1)), 1), m) for f, m in zip(fits, most, strict=True))
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    x = rng.standard_normal((draw(st.integers(1, 4)), draw(st.integers(0, 3)), height, width)).astype(dtype)
    return x, kernel, strides, dilations, pads, shape, rng


def seen_by(x, kernel, strides, dilations, pads, shape, fill=0.0):
    """(n, batch, OH, OW, kh, kw): what every window sees, ``fill`` beyond the map."""
    after = [
        (count - 1) * stride + (size - 1) * dilation + 1
        for count, stride, size, dilation in zip(shape, strides, kernel, dilations, strict=True)
    ]
    wide = np.full(
        (*x.shape[:2], *(pad + max(a, s) for pad, a, s in zip(pads, after, x.shape[2:], strict=True))),
        fill,
        x.dtype,
    )
    wide[:, :, pads[0] : pads[0] + x.shape[2], pads[1] : pads[1] + x.shape[3]] = x
    views = np.lib.stride_tricks.sliding_window_view(
        wide, [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)], (2, 3)
    )
    views = views[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    return views[:, :, : shape[0], : shape[1]]


def assert_close(actual, expected):
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[actual.dtype.name])


def nothing_of(x, shape):
    return np.full((*x.shape[:2], *shape), np.nan, x.dtype)


@given(problem=windows())
def test_patches_of_some_rows(version, problem):
    x, kernel, strides, dilations, pads, shape, rng = problem
    rows = x.shape[1] * shape[0]
    first = int(rng.integers(0, rows + 1))
    count = int(rng.integers(0, rows - first + 1))
    seen = seen_by(x, kernel, strides, dilations, pads, shape)
    matrix = seen.transpose(0, 4, 5, 1, 2, 3).reshape(x.shape[0] * math.prod(kernel), rows, shape[1])
    expected = matrix[:, first : first + count].reshape(len(matrix), -1)
    out = np.full(expected.shape, np.nan, x.dtype)
    version(kernels.patches)(x, first, shape, Window2D(kernel, strides, dilations, pads), out)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("by_channels", [0, 1])
@given(problem=windows(), neurons=st.integers(1, 18), data=st.data())
@settings(max_examples=80)
def test_convolution_of_a_region(version, by_channels, problem, neurons, data):
    x, kernel, strides, dilations, pads, shape, rng = problem
    W = rng.standard_normal((neurons, x.shape[0], *kernel)).astype(x.dtype)
    bias = rng.standard_normal((neurons, 1, 1, 1)).astype(x.dtype)
    product = np.einsum("jbpquv,ijuv->ibpq", seen_by(x, kernel, strides, dilations, pads, shape), W)
    weights = packed_for_convolution(W.reshape(neurons, -1), by_channels)
    out = rng.standard_normal(product.shape).astype(x.dtype)
    region = data.draw(st.just(Region.whole(shape)) | regions(shape))
    inside = (..., *map(slice, region.first, region.end))
    arguments = *weights, by_channels, x, Window2D(kernel, strides, dilations, pads), region
    for onto in (False, True):
        expected = out.copy()
        start = expected if onto else bias
        expected[inside] = activate(LEAKY, np.broadcast_to(start, out.shape) + product)[inside]
        whole = out.copy()
        version(kernels.convolve_direct)(*arguments, out if onto else bias, out, EPILOGUE)
        assert_close(out, expected)
        # The region decides nothing about the bits.
        all_arguments = *arguments[:-1], Region.whole(shape)
        version(kernels.convolve_direct)(*all_arguments, whole if onto else bias, whole, EPILOGUE)
        np.testing.assert_array_equal(out[inside], whole[inside])


def regions(shape):
    """Rectangles of a map that are not empty."""
    bounds = [
        st.integers(0, size - 1).flatmap(
            lambda first, size=size: st.tuples(st.just(first), st.integers(first + 1, size))
        )
        for size in shape
    ]
    return st.tuples(*bounds).map(lambda axes: Region(*zip(*axes, strict=True)))


@pytest.mark.parametrize("weights_dtype", WEIGHTS_DTYPES[1:])
@pytest.mark.parametrize("by_channels", [0, 1])
@given(problem=windows(), neurons=st.integers(1, 40))
@settings(max_examples=30)
def test_weights_in_fewer_bits_are_those_that_they_stand_for(
    version, by_channels, weights_dtype, problem, neurons
):
    x, kernel, strides, dilations, pads, shape, rng = problem
    W = rng.standard_normal((neurons, x.shape[0] * math.prod(kernel))).astype(x.dtype)
    W[rng.random(neurons) < 0.1] = 0
    bias = rng.standard_normal((neurons, 1, 1, 1)).astype(x.dtype)
    results = []
    for weights in (
        packed_for_convolution(W, by_channels, weights_dtype),
        packed_for_convolution(rounded(W, weights_dtype), by_channels),
    ):
        out = np.full((neurons, x.shape[1], *shape), np.nan, x.dtype)
        window = Window2D(kernel, strides, dilations, pads)
        region = Region.whole(shape)
        version(kernels.convolve_direct)(*weights, by_channels, x, window, region, bias, out, EPILOGUE)
        results.append(out)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("by_channels", [0, 1])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize(("neurons", "weights_dtype"), [(9, EXACT), *((70, each) for each in WEIGHTS_DTYPES)])
def test_convolution_of_large_maps_by_rows_strips_and_taps(by_channels, strides, neurons, weights_dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 2, 61, 70)).astype(np.float32)
    W = rng.standard_normal((neurons, 40 * 9)).astype(np.float32) / 20
    shape = tuple((size - 1) // stride + 1 for size, stride in zip(x.shape[2:], strides, strict=True))
    seen = seen_by(x, (3, 3), strides, (1, 1), (1, 1), shape)
    numbers = rounded(W, weights_dtype).reshape(neurons, 40, 3, 3)
    expected = np.tensordot(numbers, seen, ((1, 2, 3), (0, 4, 5)))
    out, bias = np.empty_like(expected), np.zeros((neurons, 1, 1, 1), np.float32)
    window, identity = Window2D((3, 3), strides, (1, 1), (1, 1)), Epilogue(0, 0.0, 0.0)
    weights = packed_for_convolution(W, by_channels, weights_dtype)
    kernels.convolve_direct(*weights, by_channels, x, window, Region.whole(shape), bias, out, identity)
    assert_close(out, expected)


@pytest.mark.parametrize("by_channels", [0, 1])
def test_convolution_of_nothing_adds_nothing(by_channels):
    x, window = np.empty((0, 2, 5, 9), np.float32), Window2D((3, 3), (1, 1), (1, 1), (1, 1))
    weights = packed_for_convolution(np.empty((3, 0), np.float32), by_channels)
    out = np.ones((3, 2, 5, 9), np.float32)
    kernels.convolve_direct(*weights, by_channels, x, window, Region.whole((5, 9)), out, out, EPILOGUE)
    np.testing.assert_array_equal(out, np.ones_like(out))


def assert_filters_and_pools(version, x, geometry):
    """Every kernel of single maps against NumPy."""
    kernel, strides, dilations, pads, shape = geometry
    window, rng = Window2D(kernel, strides, dilations, pads), np.random.default_rng(0)
    W = rng.standard_normal((x.shape[0], *kernel)).astype(x.dtype)
    bias = rng.standard_normal((x.shape[0], 1, 1, 1)).astype(x.dtype)
    seen, out = seen_by(x, *geometry), nothing_of(x, shape)
    version(kernels.depthwise)(W, x, window, bias, out, EPILOGUE)
    assert_close(out, activate(LEAKY, bias + np.einsum("jbpquv,juv->jbpq", seen, W)))
    version(kernels.max_pool)(x, window, out)
    np.testing.assert_array_equal(out, seen_by(x, *geometry, -np.inf).max((4, 5)))
    version(kernels.average_pool)(x, window, (0, 0, 0, 0), out)
    assert_close(out, seen.sum((4, 5)) / seen_by(np.ones_like(x), *geometry).sum((4, 5)))


@given(problem=windows())
def test_depthwise(version, problem):
    x, kernel, strides, dilations, pads, shape, rng = problem
    W = rng.standard_normal((x.shape[0], *kernel)).astype(x.dtype)
    bias = rng.standard_normal((x.shape[0], 1, 1, 1)).astype(x.dtype)
    product = np.einsum("jbpquv,juv->jbpq", seen_by(x, kernel, strides, dilations, pads, shape), W)
    out = nothing_of(x, shape)
    version(kernels.depthwise)(W, x, Window2D(kernel, strides, dilations, pads), bias, out, EPILOGUE)
    assert_close(out, activate(LEAKY, bias + product))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 1), (7, 7), (8, 16), (9, 17), (21, 24), (16, 41)])
def test_blocks_and_vectors_of_all_sizes(version, dtype, stride, size):
    """Maps below, at and above what is taken at a time, and smaller than a window of 5 x 5."""
    x = np.random.default_rng(1).standard_normal((2, 3, *size)).astype(dtype)
    shape = tuple((count - 1) // stride + 1 for count in size)
    assert_filters_and_pools(version, x, ((5, 5), (stride, stride), (1, 1), (2, 2), shape))


@pytest.mark.parametrize("dilations", [(1, 1), (2, 1), (3, 2), (4, 2)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (1, 2), (4, 2)])
def test_dilated_windows_with_strides(version, strides, dilations):
    """Tap rows that an output and the one below share, at one or several steps, or do not share."""
    x = np.random.default_rng(1).standard_normal((2, 2, 31, 21))
    pads = tuple(2 * dilation for dilation in dilations)
    shape = tuple((count - 1) // stride + 1 for count, stride in zip(x.shape[2:], strides, strict=True))
    assert_filters_and_pools(version, x, ((5, 5), strides, dilations, pads, shape))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("axis", [0, 1])
def test_maps_of_one_row_or_column(version, axis, batch):
    x = np.random.default_rng(1).standard_normal((2, batch, 1, 1)) * np.ones((1, 1, 1, 37))
    x += np.arange(37.0)
    geometry = ((1, 3), (1, 2), (1, 1), (0, 1), (1, 19))
    if axis == 0:
        x = x.reshape(2, batch, 37, 1)
        geometry = tuple(pair[::-1] for pair in geometry)
    assert_filters_and_pools(version, np.ascontiguousarray(x), geometry)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_numbers_stay_in_their_map(version, stride):
    """Vectors end beyond rows and maps: what is there must not be seen, not even times 0."""
    x = np.full((3, 2, 9, 13), np.inf, np.float32)
    x[1] = 1
    shape = tuple((count - 1) // stride + 1 for count in x.shape[2:])
    window = Window2D((3, 3), (stride, stride), (1, 1), (1, 1))
    W, bias, out = np.ones((3, 3, 3), np.float32), np.zeros((3, 1, 1, 1), np.float32), nothing_of(x, shape)
    version(kernels.depthwise)(W, x, window, bias, out, EPILOGUE)
    assert np.isinf(out[[0, 2]]).all()
    assert out[1].min() == 4 and out[1].max() <= 9
    version(kernels.max_pool)(-x, window, out)
    np.testing.assert_array_equal(out, -x[:, :, : shape[0], : shape[1]])


@given(problem=windows())
def test_max_pool(version, problem):
    x, kernel, strides, dilations, pads, shape, _ = problem
    expected = seen_by(x, kernel, strides, dilations, pads, shape, -np.inf).max((4, 5))
    out = nothing_of(x, shape)
    version(kernels.max_pool)(x, Window2D(kernel, strides, dilations, pads), out)
    np.testing.assert_array_equal(out, expected)


@given(problem=windows(), counts=st.booleans())
def test_average_pool(version, problem, counts):
    x, kernel, strides, dilations, pads, shape, _ = problem
    geometry = kernel, strides, dilations, pads, shape
    total = seen_by(x, *geometry).sum((4, 5))
    ones = np.ones_like(x)
    if counts:
        ones = np.pad(ones, [(0, 0), (0, 0), *((pad, pad) for pad in pads)], constant_values=1)
        number = seen_by(ones, kernel, strides, dilations, (0, 0), shape).sum((4, 5))
    else:
        number = seen_by(ones, *geometry).sum((4, 5))
    out = nothing_of(x, shape)
    counted = pads * 2 if counts else (0, 0, 0, 0)
    with np.errstate(divide="ignore", invalid="ignore"):  # windows that see nothing
        version(kernels.average_pool)(x, Window2D(kernel, strides, dilations, pads), counted, out)
        assert_close(out, total / number)


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (5, 9)])
def test_global_pools(version, size):
    x = np.random.default_rng(0).standard_normal((3, 2, *size))
    out = np.empty((3, 2, 1, 1))
    window = Window2D(size, (1, 1), (1, 1), (0, 0))
    version(kernels.max_pool)(x, window, out)
    np.testing.assert_array_equal(out[:, :, 0, 0], x.max((2, 3)))
    version(kernels.average_pool)(x, window, (0, 0, 0, 0), out)
    assert_close(out[:, :, 0, 0], x.mean((2, 3)))


@pytest.mark.parametrize("kernel", [(2, 2), (4, 4)], ids=["windows", "whole"])
@pytest.mark.parametrize("place", range(16))
def test_max_pool_shows_nan(kernel, place):
    x = np.ones((1, 1, 4, 4), np.float32)
    x[0, 0, place // 4, place % 4] = np.nan
    size = 4 // kernel[0]
    out = np.empty((1, 1, size, size), np.float32)
    kernels.max_pool(x, Window2D(kernel, kernel, (1, 1), (0, 0)), out)
    assert np.isnan(out).sum() == 1


@given(problem=windows(), share=st.sampled_from([0.02, 0.3]))
def test_max_pool_of_nan_and_infinities(version, problem, share):
    x, kernel, strides, dilations, pads, shape, rng = problem
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        x[rng.random(x.shape) < share] = value
    expected = seen_by(x, kernel, strides, dilations, pads, shape, -np.inf).max((4, 5))
    out = np.zeros_like(expected)
    version(kernels.max_pool)(x, Window2D(kernel, strides, dilations, pads), out)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("positions", [1, 35])
def test_affine(version, dtype, positions):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3, 35)).astype(dtype)
    scale, shift = rng.standard_normal((2, 4, positions)).astype(dtype)
    expected = activate(LEAKY, scale[:, None] * x + shift[:, None])
    version(kernels.affine)(scale, x, shift, x, EPILOGUE)
    assert_close(x, expected)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("positions", [(35, 35), (35, 1), (1, 35), (1, 1)])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_combine(version, operation, positions, dtype):
    assert set(COMBINATION_CODES) == set(OPERATIONS)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((4, 3, count)).astype(dtype) for count in positions)
    a[0, 1, 0] = b[2, 2, 0] = np.nan
    expected = activate(LEAKY, OPERATIONS[operation](a, b))
    apart = np.empty_like(expected)
    onto = max(a, b, key=np.size)
    for out in (apart, onto):
        version(kernels.combine)(COMBINATION_CODES[operation], a, b, out, EPILOGUE)
        np.testing.assert_allclose(out, expected, rtol=TOLERANCE[dtype])


@given(index=st.lists(st.integers(-1, 5), max_size=9))
def test_take_positions(version, index):
    x = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)
    index = np.array(index, np.int64)
    out = np.full((2, 3, index.size), np.nan, np.float32)
    version(kernels.take_positions)(x, index, -2.5, out)
    np.testing.assert_array_equal(out, np.where(index < 0, np.float32(-2.5), x[..., index]))


@given(starts=st.lists(st.tuples(st.integers(0, 8), st.integers(1, 4)), max_size=4))
def test_copy_runs(version, starts):
    """Runs that lie one behind the other in the output; what is between them stays."""
    x = np.random.default_rng(0).standard_normal((2, 3, 12)).astype(np.float32)
    out = np.full((2, 3, 25), -1, np.float32)
    runs, expected, to = [], out.copy(), 1
    for first, length in starts:
        runs.append((first, to, length))
        expected[:, :, to : to + length] = x[:, :, first : first + length]
        to += length + 1
    version(kernels.copy_runs)(x, np.array(runs, np.int64).reshape(-1, 3), out)
    np.testing.assert_array_equal(out, expected)


def test_no_numbers_of_a_row_are_added_where_a_strip_begins_behind_it():
    """As compiled: a negative count is none."""
    numbers, out = np.ones(9), np.zeros(9)
    for each in (True, False):
        add_row(numbers, 8, each, numbers, 1, out, 8, -4)
    np.testing.assert_array_equal(out, 0)
