"""Arrays, C functions and memory by their address, for code that is given them as numbers."""

from __future__ import annotations

import ctypes
import math

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import overload

from .intrinsics import intrinsic

# C's type of each argument of the functions that can be called, an int ("i") or 64 bits ("p"): a pointer, or
# a handle that is one.  MPI functions whose handles are ints, then those whose handles are pointers.
SIGNATURES = (
    *("pppipppii", "pppipppiip", "ppppppppp", "pppppppppp"),  # Alltoallv, Ialltoallv
    *("ip", "ipp"),  # Startall, Waitall
    *("iiipp", "iippp"),  # Iprobe
)
C_TYPES = {"i": ctypes.c_int32, "p": ctypes.c_int64}
MOST_ARGUMENTS = max(map(len, SIGNATURES))


def array_at(address: int, shape: tuple[int, ...], kind: type) -> np.ndarray:
    """The C-contiguous array of numbers of a kind, such as ``np.float32``, that begins at an address."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    if size == 0:
        return np.empty(shape, kind)
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(address)))
    return memory.view(kind).reshape(shape)


@overload(array_at)
def _array_at(address, shape, kind):
    return lambda address, shape, kind: numba.carray(_pointer(address, kind), shape)


@intrinsic
def _pointer(typing, address, kind):
    """The address as a pointer to numbers of a kind."""
    result = types.CPointer(kind.dtype)

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(result))

    return result(types.int64, kind), generate


def call_function(address: int, signature: int, arguments: np.ndarray) -> int:
    """The int that a C function returns.

    Args:
        address: of the function.
        signature: number of its types in ``SIGNATURES``.
        arguments: integers, addresses and handles, int64; as many as the function takes, or more.
    """
    letters = SIGNATURES[signature]
    values = np.asarray(arguments).tolist()[: len(letters)]
    return ctypes.CFUNCTYPE(ctypes.c_int, *(C_TYPES[letter] for letter in letters))(int(address))(*values)


@overload(call_function)
def _call_function(address, signature, arguments):
    return lambda address, signature, arguments: _call(address, signature, arguments)


@intrinsic
def _call(typing, address, number, arguments):
    status, wide = ir.IntType(32), ir.IntType(64)

    def generate(context, builder, signature, values):
        function, chosen_signature, array = values
        data = context.make_array(signature.args[2])(context, builder, array).data
        result = cgutils.alloca_once_value(builder, ir.Constant(status, -1))
        for index, letters in enumerate(SIGNATURES):
            with builder.if_then(builder.icmp_signed("==", chosen_signature, ir.Constant(wide, index))):
                operands = [
                    _argument(builder, builder.gep(data, [ir.Constant(wide, place)]), letter)
                    for place, letter in enumerate(letters)
                ]
                kind = ir.FunctionType(status, [value.type for value in operands]).as_pointer()
                builder.store(builder.call(builder.inttoptr(function, kind), operands), result)
        return builder.load(result)

    return types.int32(types.int64, types.int64, arguments), generate


def _argument(builder, place, letter):
    """The argument in a slot of 64 bits, as wide as the function takes it."""
    value = builder.load(place)
    return builder.trunc(value, ir.IntType(32)) if letter == "i" else value


def call_entry(address: int, row: np.ndarray) -> None:
    """Call a function of the address of an array."""
    ctypes.CFUNCTYPE(None, ctypes.c_int64)(int(address))(row.ctypes.data)


@overload(call_entry)
def _call_entry(address, row):
    return lambda address, row: _enter(address, row)


@intrinsic
def _enter(typing, address, row):
    wide = ir.IntType(64)

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[1])(context, builder, arguments[1]).data
        kind = ir.FunctionType(ir.VoidType(), [wide]).as_pointer()
        builder.call(builder.inttoptr(arguments[0], kind), [builder.ptrtoint(data, wide)])
        return context.get_dummy_value()

    return types.void(types.int64, row), generate


def read_clock(address: int) -> float:
    """The double that a C function without arguments returns."""
    return ctypes.CFUNCTYPE(ctypes.c_double)(int(address))()


@overload(read_clock)
def _read_clock(address):
    return lambda address: _clock(address)


@intrinsic
def _clock(typing, address):
    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.DoubleType(), []).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], kind), [])

    return types.float64(types.int64), generate


def copy_bytes(source: int, target: int, count: int) -> None:
    """Copy ``count`` bytes from one address to another."""
    ctypes.memmove(int(target), int(source), int(count))


@overload(copy_bytes, inline="always")
def _copy_bytes(source, target, count):
    return lambda source, target, count: _copy(source, target, count)


@intrinsic
def _copy(typing, source, target, count):
    def generate(context, builder, signature, arguments):
        byte = ir.IntType(8).as_pointer()
        first, second = (builder.inttoptr(address, byte) for address in arguments[:2])
        cgutils.raw_memcpy(builder, second, first, arguments[2], 1)

    return types.void(types.int64, types.int64, types.int64), generate
