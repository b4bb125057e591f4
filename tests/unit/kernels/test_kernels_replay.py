"""A tape does what its calls do one by one, and stops where a C function fails."""

import ctypes
import os

import numpy as np
import pytest

from repurpose_hpc import kernels
from repurpose_hpc.kernels import replay as tape

pytestmark = pytest.mark.skipif(
    os.environ.get("NUMBA_DISABLE_JIT", "0") != "0", reason="without the compiler nothing is taped"
)
RELU = kernels.ACTIVATION_CODES["relu"], 0.0, 0.0
INT = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_int64] * 3)
CLOCK = ctypes.CFUNCTYPE(ctypes.c_double)


def address(function):
    return ctypes.cast(function, ctypes.c_void_p).value


def play(rows, dtype, codes=None):
    """Status, and seconds by phase of a clock that ticks once a reading."""
    readings = iter(range(1000))
    clock = CLOCK(lambda: float(next(readings)))
    instructions, reals = (np.array(part) for part in zip(*rows, strict=True))
    seconds = np.zeros(4)
    like = np.empty(0, dtype)
    of_codes = None if codes is None else np.empty(0, codes)
    status = tape.play(instructions, reals, seconds, address(clock), like, like, of_codes)
    return status, seconds.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch", [1, 5])
def test_a_tape_does_what_its_calls_do(dtype, batch):
    rng = np.random.default_rng(batch)
    index, real = kernels.INDEX_DTYPE, np.dtype(dtype)

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    panels, scales, bias = normal(2, 7, kernels.panel_rows(real)), np.empty(0, dtype), normal(9, 1)
    X, Y, buffer, sums = normal(7, batch), normal(9, batch), normal(3, batch), normal(4, batch)
    cleared, copied = normal(2, batch), normal(7, batch)
    scratch = np.zeros(kernels.dense_scratch(7, batch, real), dtype)
    rows, places = np.array([6, 0, 3], index), np.array([8, 8, 1, 0], index)
    data, columns, ends = normal(2), np.array([1, 5], index), np.array([0, 1, 2, 2], index)
    out, column = normal(3, batch), normal(3)
    x, start = X[:, 0].copy(), normal(3)
    calls = [
        (kernels.dense, (panels, scales, X, bias, Y, scratch, *RELU)),
        (kernels.pack, (X, rows, buffer)),
        (kernels.unpack_add, (sums, places, Y)),
        (kernels.csr_batch, (data, columns, ends, X, out, out, *RELU)),
        (kernels.csr_vector, (data, columns, ends, x, start, column, *RELU)),
        (kernels.activate_in_place, (sums, kernels.ACTIVATION_CODES["clip"], -0.5, 0.25)),
        (kernels.clear, (cleared,)),
        (kernels.copy_blocks, (np.array([[X.ctypes.data, copied.ctypes.data, X.nbytes]]),)),
    ]
    changed = Y, buffer, out, column, sums, cleared, copied
    before = [array.copy() for array in changed]
    for function, arguments in calls:
        function(*arguments)
    expected = [array.copy() for array in changed]
    for array, values in zip(changed, before, strict=True):
        array[...] = values
    instructions = [
        tape.kernel_instruction(k % 4, function, arguments) for k, (function, arguments) in enumerate(calls)
    ]
    status, seconds = play(instructions, dtype)
    assert status == 0 and seconds == [2, 2, 2, 2]
    for array, values in zip(changed, expected, strict=True):
        np.testing.assert_array_equal(array, values)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("codes", [np.uint16, np.int16, np.int8])
def test_codes_are_those_of_the_calls(codes, dtype):
    rng = np.random.default_rng(1)
    X, rows = rng.standard_normal((7, 5)).astype(dtype), np.array([6, 0, 3], kernels.INDEX_DTYPE)
    X[0, :3] = np.nan, np.inf, 1e-39
    scales = np.array([0.01, 0.0, 0.02], np.float32)
    made = [(np.zeros((3, 5), codes), np.ones((3, 5), dtype)) for _ in range(2)]
    calls, taped = (
        [(kernels.pack_codes, (X, rows, scales, sent)), (kernels.unpack_codes, (sent, scales, came))]
        for sent, came in made
    )
    for function, arguments in calls:
        function(*arguments)
    status, _ = play([tape.kernel_instruction(0, *call) for call in taped], dtype, codes)
    assert status == 0
    for expected, found in zip(*made, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_blocks_are_handed_over():
    mark, sent, came = np.zeros(1, np.int64), np.arange(5.0), np.zeros(5)
    line, idle = np.array([mark.ctypes.data]), np.array([0, 0])
    blocks = np.array([[line[0], sent.ctypes.data, came.ctypes.data, sent.nbytes]])
    calls = [
        (kernels.await_read, (line, idle)),
        (kernels.publish, (line,)),
        (kernels.collect, (blocks, idle)),
    ]
    status, _ = play([tape.kernel_instruction(0, *call) for call in calls * 2], np.float32)
    assert status == 0 and mark == 0
    np.testing.assert_array_equal(came, sent)


def test_a_c_function_gets_its_arguments_and_may_fail():
    seen = []

    def function(*arguments):
        seen.append(arguments)
        return 7 if arguments[0] < 0 else 0

    callback = INT(function)
    rows = [tape.call_instruction(1, address(callback), (first, 2**40, -3)) for first in (5, -1, 6)]
    status, seconds = play(rows, np.float32)
    assert status == 7 and seconds == [0, 2, 0, 0]
    assert seen == [(5, 2**40, -3), (-1, 2**40, -3)]


def test_too_many_arguments_are_refused():
    with pytest.raises(ValueError, match="expected 1 to 10 arguments, got 11"):
        tape.call_instruction(0, 0, range(11))
