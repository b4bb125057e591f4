"""Blocks of memory handed from one process to another through memory that both see.

Every block has a flag, an int64 in a cache line of its own: 0 while the sender owns the block, 1 while the
receiver does.  Whoever owns the block sets the flag when done with it.  Setting it releases, and reading it
acquires: what was written to the block before is seen by whoever finds the flag changed.  Numba has no such
loads and stores; they are written in the compiler's intermediate language.  Processes and blocks are known
by their addresses.  As plain Python, without the compiler, processors that keep the order of stores (x86) are
needed.

Whoever waits long offers the core to others, for there may be more ranks than cores, and makes the call
``idle``: an int64 array of the address of a C function, the number of its arguments, and these.
"""

from __future__ import annotations

import ctypes
import os

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from ..jit import jit
from ..llvm.addresses import call_function, copy_bytes

SENDERS, RECEIVERS = 0, 1
# Looks at a flag, a nanosecond or two each, before others get the core.
LOOKS = 400


@jit
def await_read(flags: np.ndarray, idle: np.ndarray) -> None:
    """Wait until all blocks, with ``flags`` at these addresses (n,) int64, have been read."""
    for flag in flags:
        _await(flag, SENDERS, idle)


@jit
def publish(flags: np.ndarray) -> None:
    """Hand all blocks, with ``flags`` at these addresses (n,) int64, to their receivers."""
    for flag in flags:
        store_release(flag, RECEIVERS)


@jit
def collect(blocks: np.ndarray, idle: np.ndarray) -> None:
    """Wait for all blocks, copy each and give it back.

    Args:
        blocks: (n, 4) int64: the address of the flag, those to copy from and to, and bytes.
        idle: see above.
    """
    for k in range(len(blocks)):
        _await(blocks[k, 0], RECEIVERS, idle)
        copy_bytes(blocks[k, 1], blocks[k, 2], blocks[k, 3])
        store_release(blocks[k, 0], SENDERS)


@jit
def _await(flag: int, owner: int, idle: np.ndarray) -> None:
    while True:
        for _ in range(LOOKS):
            if load_acquire(flag) == owner:
                return
        yield_core()
        call(idle)


def load_acquire(address: int) -> int:
    """The int64 at an address; what its writer wrote before it is seen by whoever reads afterwards."""
    return ctypes.c_int64.from_address(int(address)).value


def store_release(address: int, value: int) -> None:
    """Write an int64 to an address, after everything that was read and written before."""
    ctypes.c_int64.from_address(int(address)).value = value


def yield_core() -> None:
    """Let others run that wait for this core."""
    os.sched_yield()


def call(function: np.ndarray) -> None:
    """Call a C function, given as ``idle`` above."""
    address, count, *arguments = function.tolist()
    ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_int64] * count)(address)(*arguments)


@overload(load_acquire, inline="always")
def _compiled_load(address):
    return lambda address: _load(address)


@overload(store_release, inline="always")
def _compiled_store(address, value):
    return lambda address, value: _store(address, value)


@overload(yield_core, inline="always")
def _compiled_yield():
    return lambda: _yield()


@overload(call, inline="always")
def _compiled_call(function):
    return lambda function: call_function(function[0], function[1], function[2:])


@intrinsic
def _load(typing, address):
    def generate(context, builder, signature, arguments):
        return builder.load_atomic(_flag_at(builder, arguments[0]), "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def _store(typing, address, value):
    def generate(context, builder, signature, arguments):
        builder.store_atomic(arguments[1], _flag_at(builder, arguments[0]), "release", 8)

    return types.void(types.int64, types.int64), generate


@intrinsic
def _yield(typing):
    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])

    return types.void(), generate


def _flag_at(builder, address):
    return builder.inttoptr(address, ir.IntType(64).as_pointer())
