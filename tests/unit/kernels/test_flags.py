"""Blocks handed over through flags: between threads here, between processes in the tests of programs."""

import ctypes
import threading
import time

import numpy as np
import pytest

from repurpose_hpc import kernels
from repurpose_hpc.kernels.llvm import addresses, atomics

LINE = 8  # int64 in a cache line
ROUNDS = 2000


class Idle:
    """A call to make while waiting, which counts."""

    def __init__(self):
        self.calls = 0
        self._function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int32, ctypes.c_int64)(self._count)
        address = ctypes.cast(self._function, ctypes.c_void_p).value
        self.call = np.array([address, addresses.SIGNATURES.index("ip"), 5, 6], np.int64)

    def _count(self, *arguments):
        assert arguments == (5, 6)
        self.calls += 1
        return 0


@pytest.fixture(scope="module", params=["compiled", "plain"])
def version(request):
    if request.param == "compiled":
        return lambda kernel: kernel
    return lambda kernel: getattr(kernel, "py_func", kernel)


@pytest.mark.parametrize("size", [1, 700])
def test_every_round_arrives_whole(version, size):
    """The sender packs as soon as it may; a receiver that read late would see the next round."""
    await_read, publish, collect = map(version, (kernels.await_read, kernels.publish, kernels.collect))
    rounds = ROUNDS if hasattr(kernels.publish, "py_func") else 5
    marks, sent, received = np.zeros(3 * LINE, np.int64), np.zeros((2, size)), np.zeros((2, size))
    lines = marks.ctypes.data + 8 * LINE * np.arange(1, 3)
    blocks = np.array(
        [
            [line, source.ctypes.data, target.ctypes.data, source.nbytes]
            for line, source, target in zip(lines, sent, received, strict=True)
        ]
    )
    idle = Idle()

    def send():
        for number in range(rounds):
            await_read(lines, idle.call)
            sent[:] = 10.0 * number + np.arange(2)[:, None]
            publish(lines)

    sender = threading.Thread(target=send)
    sender.start()
    for number in range(rounds):
        collect(blocks, idle.call)
        np.testing.assert_array_equal(
            received, np.broadcast_to([[10.0 * number], [10.0 * number + 1]], (2, size))
        )
    sender.join()
    assert not marks.any()


def test_who_waits_long_makes_the_call(version):
    marks, data, idle = np.zeros(1, np.int64), np.ones(4), Idle()
    came = np.zeros_like(data)
    line = np.array([marks.ctypes.data])
    blocks = np.array([[line[0], data.ctypes.data, came.ctypes.data, data.nbytes]])
    receiver = threading.Thread(target=version(kernels.collect), args=(blocks, idle.call))
    receiver.start()
    while not idle.calls:
        time.sleep(0.01)
    version(kernels.publish)(line)
    receiver.join()
    np.testing.assert_array_equal(came, data)


def test_plain_python_does_the_same():
    """Also of what compiled code never leaves to it."""
    word, copy, idle = np.array([7]), np.zeros(1, np.int64), Idle()
    address = word.ctypes.data
    assert atomics.load_acquire(address) == 7
    atomics.store_release(address, 9)
    addresses.copy_bytes(address, copy.ctypes.data, copy.nbytes)
    assert word == copy == 9
    atomics.yield_core()
    assert addresses.call_function(idle.call[0], idle.call[1], idle.call[2:]) == 0
    assert idle.calls == 1
