"""Flags that processes set for one another: loads that acquire, stores that release, and giving way.

What was written to memory before a flag was set is seen by whoever finds it set.  Numba has no such loads and
stores.  As plain Python they need a processor that keeps the order of stores (x86).
"""

from __future__ import annotations

import ctypes
import os

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import overload

from .intrinsics import intrinsic


def load_acquire(address: int) -> int:
    """The int64 at an address; what its writer wrote before it is seen by whoever reads afterwards."""
    return ctypes.c_int64.from_address(int(address)).value


@overload(load_acquire, inline="always")
def _load_acquire(address):
    return lambda address: _load(address)


@intrinsic
def _load(typing, address):
    def generate(context, builder, signature, arguments):
        return builder.load_atomic(_flag_at(builder, arguments[0]), "acquire", 8)

    return types.int64(types.int64), generate


def store_release(address: int, value: int) -> None:
    """Write an int64 to an address, after everything that was read and written before."""
    ctypes.c_int64.from_address(int(address)).value = value


@overload(store_release, inline="always")
def _store_release(address, value):
    return lambda address, value: _store(address, value)


@intrinsic
def _store(typing, address, value):
    def generate(context, builder, signature, arguments):
        builder.store_atomic(arguments[1], _flag_at(builder, arguments[0]), "release", 8)

    return types.void(types.int64, types.int64), generate


def yield_core() -> None:
    """Let others run that wait for this core."""
    os.sched_yield()


@overload(yield_core, inline="always")
def _yield_core():
    return lambda: _yield()


@intrinsic
def _yield(typing):
    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])

    return types.void(), generate


def _flag_at(builder, address):
    return builder.inttoptr(address, ir.IntType(64).as_pointer())
