"""A recording does what its calls do one by one, refuses other arguments, and stops where a call fails."""

import ctypes

import numpy as np
import pytest

from repurpose_hpc import kernels
from repurpose_hpc.kernels import Epilogue, Recording, Types, replay
from repurpose_hpc.kernels.registry import REGISTRY

RELU = Epilogue(kernels.ACTIVATION_CODES["relu"], 0.0, 0.0)
NO_CALL = np.array([0, 0])
FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int32, ctypes.c_int64, ctypes.c_int64)
CLOCK = ctypes.CFUNCTYPE(ctypes.c_double)
FLOAT = np.dtype(np.float32)


def address(function):
    return ctypes.cast(function, ctypes.c_void_p).value


def run(recording):
    """Status, and seconds by phase of a clock that ticks once a reading."""
    readings = iter(range(1000))
    clock = CLOCK(lambda: float(next(readings)))
    seconds = np.zeros(4)
    status = recording.run(seconds, address(clock))
    return status, seconds.tolist()


def recorded(calls, dtype, codes=None):
    """One call in each phase, in turns."""
    recording = Recording(Types(np.dtype(dtype), np.dtype(dtype), codes and np.dtype(codes)))
    for k, (function, arguments) in enumerate(calls):
        recording.add_kernel(k % 4, function, arguments)
    return recording


def some_calls(dtype, batch):
    """Calls of kernels, and the arrays that they change."""
    rng = np.random.default_rng(batch)
    index, real = kernels.INDEX_DTYPE, np.dtype(dtype)

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    panels, scales, bias = normal(2, 7, kernels.panel_rows(real)), np.empty(0, dtype), normal(9, 1)
    X, Y, buffer, sums = normal(7, batch), normal(9, batch), normal(3, batch), normal(4, batch)
    cleared, copied = normal(2, batch), normal(7, batch)
    scratch = np.zeros(kernels.dense_scratch(7, batch, real), dtype)
    rows, places = np.array([6, 0, 3], index), np.array([8, 8, 1, 0], index)
    csr = normal(2), np.array([1, 5], index), np.array([0, 1, 2, 2], index)
    csr = *csr, np.arange(3, dtype=index), np.ones(3, index)
    out, column, start = normal(3, batch), normal(3), normal(3)
    calls = [
        (kernels.dense, (panels, scales, X, bias, Y, scratch, 0, RELU)),
        (kernels.pack, (X, rows, buffer)),
        (kernels.unpack_add, (sums, places, Y)),
        (kernels.csr_batch, (*csr, X, out, out, RELU)),
        (kernels.csr_vector, (*csr, X[:, 0].copy(), start, column, RELU)),
        (kernels.activate_in_place, (sums, kernels.ACTIVATION_CODES["clip"], -0.5, 0.25)),
        (kernels.clear, (cleared,)),
        (kernels.copy_blocks, (np.array([[X.ctypes.data, copied.ctypes.data, X.nbytes]]),)),
    ]
    return calls, (Y, buffer, out, column, sums, cleared, copied)


def test_times_of_all_calls_are_noted_for_who_asks():
    calls, changed = some_calls(np.float32, 2)
    recording, times = recorded(calls, np.float32), np.full((len(calls), 2), -1.0)
    readings, seconds = iter(range(100)), np.zeros(4)
    clock = CLOCK(lambda: float(next(readings)))
    assert recording.run(seconds, address(clock), times) == 0
    assert seconds.tolist() == [2, 2, 2, 2]
    np.testing.assert_array_equal(times, [[k, k + 1] for k in range(len(calls))])
    noted = [array.copy() for array in changed]
    assert run(recorded(calls, np.float32)) == (0, [2, 2, 2, 2])
    assert all(np.isfinite(array).all() for array in noted)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch", [1, 5])
def test_a_recording_does_what_its_calls_do(dtype, batch):
    calls, changed = some_calls(dtype, batch)
    before = [array.copy() for array in changed]
    for function, arguments in calls:
        function(*arguments)
    expected = [array.copy() for array in changed]
    for array, values in zip(changed, before, strict=True):
        array[...] = values
    status, seconds = run(recorded(calls, dtype))
    assert status == 0 and seconds == [2, 2, 2, 2]
    for array, values in zip(changed, expected, strict=True):
        np.testing.assert_array_equal(array, values)


def test_the_loop_does_the_same_as_plain_python(monkeypatch):
    """Without the compiler the loop itself runs as Python."""
    (calls, changed), (same_calls, same) = some_calls(np.float32, 3), some_calls(np.float32, 3)
    run(recorded(calls, np.float32))
    monkeypatch.setattr(replay, "replay", getattr(replay.replay, "py_func", replay.replay))
    assert run(recorded(same_calls, np.float32)) == (0, [2, 2, 2, 2])
    for array, values in zip(changed, same, strict=True):
        np.testing.assert_array_equal(array, values)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("codes", [np.uint16, np.int16, np.int8])
def test_codes_are_those_of_the_calls(codes, dtype):
    rng = np.random.default_rng(1)
    X, rows = rng.standard_normal((7, 5)).astype(dtype), np.array([6, 0, 3], kernels.INDEX_DTYPE)
    X[0, :3] = np.nan, np.inf, 1e-39
    steps, places = np.array([0.01, 0.0, 0.02], np.float32), np.array([0, 5, 4], kernels.INDEX_DTYPE)
    of_bytes = steps, places, np.array([4, 1, 1], kernels.INDEX_DTYPE)
    made = [(np.zeros((3, 5), codes), np.ones((3, 5), dtype)) for _ in range(2)]
    calls, same_calls = (
        [(kernels.pack_bytes, (X, rows, *of_bytes, sent)), (kernels.unpack_bytes, (sent, *of_bytes, came))]
        if codes == np.int8
        else [(kernels.pack_codes, (X, rows, sent)), (kernels.unpack_codes, (sent, came))]
        for sent, came in made
    )
    for function, arguments in calls:
        function(*arguments)
    assert run(recorded(same_calls, dtype, codes))[0] == 0
    for expected, found in zip(*made, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_blocks_are_handed_over():
    mark, sent, came = np.zeros(1, np.int64), np.arange(5.0), np.zeros(5)
    line = np.array([mark.ctypes.data])
    blocks = np.array([[line[0], sent.ctypes.data, came.ctypes.data, sent.nbytes]])
    calls = [
        (kernels.await_read, (line, NO_CALL)),
        (kernels.publish, (line,)),
        (kernels.collect, (blocks, NO_CALL)),
    ]
    assert run(recorded(calls * 2, np.float32))[0] == 0 and mark == 0
    np.testing.assert_array_equal(came, sent)


def test_a_c_function_gets_its_arguments_and_may_fail():
    seen = []

    def function(*arguments):
        seen.append(arguments)
        return 7 if arguments[0] < 0 else 0

    callback, recording = FUNCTION(function), Recording(Types(FLOAT, FLOAT))
    for first in (5, -1, 6):
        recording.add_call(1, address(callback), "ipp", (first, 2**40, -3))
    assert run(recording) == (7, [0, 2, 0, 0])
    assert seen == [(5, 2**40, -3), (-1, 2**40, -3)]


@pytest.mark.parametrize(
    ("signature", "arguments", "message"),
    [
        ("pi", (1, 2), "expected a signature among"),
        ("ip", (1,), "expected 2 arguments, found 1"),
        ("ip", (2**31, 0), "argument 0: expected an integer of 32 bits"),
        ("ip", (0, 2**63), "argument 1: expected an integer of 64 bits"),
    ],
)
def test_other_arguments_of_c_functions_are_refused(signature, arguments, message):
    with pytest.raises(ValueError, match=message):
        Recording(Types(FLOAT, FLOAT)).add_call(0, 1, signature, arguments)


X, ROWS, BUFFER = np.ones((4, 3), FLOAT), np.zeros(2, kernels.INDEX_DTYPE), np.ones((2, 3), FLOAT)
WRONG = [
    ((X, ROWS), "pack: expected 3 arguments, found 2"),
    ((X, [0, 1], BUFFER), "pack, argument 'rows': expected an array, found list"),
    ((X.astype(np.float64), ROWS, BUFFER), "pack, argument 'X': expected numbers of float32, found float64"),
    ((X, ROWS.astype(np.int64), BUFFER), "pack, argument 'rows': expected numbers of uint32, found int64"),
    ((X, ROWS, BUFFER[0]), "pack, argument 'buffer': expected 2 dimensions, found 1"),
    ((X[:, :2], ROWS, BUFFER), "pack, argument 'X': expected a C-contiguous, aligned array"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_other_arrays_are_refused_by_name(arguments, message):
    with pytest.raises(TypeError, match=message):
        Recording(Types(FLOAT, FLOAT)).add_kernel(0, kernels.pack, arguments)


@pytest.mark.parametrize(
    ("numbers", "name"),
    [
        ((1.0, 0.0, 0.0), "code"),
        ((True, 0.0, 0.0), "code"),
        ((RELU, 0.0, 0.0), "code"),
        ((1, 0, 0.0), "alpha"),
        ((1, 0.0, None), "beta"),
    ],
)
def test_other_numbers_are_refused_by_name(numbers, name):
    with pytest.raises(TypeError, match=f"activate_in_place, argument '{name}': expected a value like"):
        Recording(Types(FLOAT, FLOAT)).add_kernel(0, kernels.activate_in_place, (X, *numbers))


def test_a_plain_tuple_is_no_epilogue():
    out = np.ones((2, 3), FLOAT)
    csr = (
        np.ones(1, FLOAT),
        *(np.array(each, kernels.INDEX_DTYPE) for each in ([0], [0, 1, 1], [0, 1], [1, 1])),
    )
    with pytest.raises(TypeError, match="csr_batch, argument 'epilogue': expected a value like Epilogue"):
        Recording(Types(FLOAT, FLOAT)).add_kernel(0, kernels.csr_batch, (*csr, X, out, out, (1, 0.0, 0.0)))


def test_codes_where_there_are_none_are_refused():
    codes = np.ones((2, 3), np.uint16)
    with pytest.raises(TypeError, match="unpack_codes, argument 'codes': expected numbers of no type"):
        Recording(Types(FLOAT, FLOAT)).add_kernel(0, kernels.unpack_codes, (codes, BUFFER))


@pytest.mark.parametrize("function", [np.copyto, kernels.depthwise])
def test_what_cannot_be_recorded_is_refused(function):
    with pytest.raises(TypeError, match="not a kernel that can be on a recording"):
        Recording(Types(FLOAT, FLOAT)).add_kernel(0, function, ())


def test_every_kernel_of_every_run_is_exported():
    assert {kernel.name for kernel in REGISTRY.kernels} <= set(kernels.__all__)
    assert len(set(kernels.__all__)) == len(kernels.__all__) == len(dir(kernels))
    for name in kernels.__all__:
        assert getattr(kernels, name) is not None
