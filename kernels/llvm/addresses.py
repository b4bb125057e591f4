"""Arrays and C functions by their address, for compiled code that is given both as numbers."""

from __future__ import annotations

import ctypes

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

# Arguments that a function may have.
MOST_ARGUMENTS = 10


@intrinsic
def pointer(typing, address, like):
    """The address as a pointer to numbers of the type that the array ``like`` has, for ``numba.carray``."""
    result = types.CPointer(like.dtype)

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(result))

    return result(types.int64, like), generate


@intrinsic
def call_function(typing, address, count, arguments):
    """The int that a C function returns for its first ``count`` arguments, integers or pointers.

    All are passed as 64 bits, of which a function that expects an int reads the lower half.
    """

    def generate(context, builder, signature, values):
        function, count, array = values
        integer, status = ir.IntType(64), ir.IntType(32)
        data = context.make_array(signature.args[2])(context, builder, array).data
        result = builder.alloca(status)
        builder.store(ir.Constant(status, -1), result)
        for number in range(1, MOST_ARGUMENTS + 1):
            with builder.if_then(builder.icmp_signed("==", count, ir.Constant(integer, number))):
                taken = [
                    builder.load(builder.gep(data, [ir.Constant(integer, place)])) for place in range(number)
                ]
                kind = ir.FunctionType(status, [integer] * number).as_pointer()
                builder.store(builder.call(builder.inttoptr(function, kind), taken), result)
        return builder.load(result)

    return types.int32(types.int64, types.int64, arguments), generate


@intrinsic
def read_clock(typing, address):
    """The double that a C function without arguments returns."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.DoubleType(), []).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], kind), [])

    return types.float64(types.int64), generate


def copy_bytes(source: int, target: int, count: int) -> None:
    """Copy ``count`` bytes from one address to another."""
    ctypes.memmove(int(target), int(source), int(count))


@overload(copy_bytes, inline="always")
def _compiled_copy(source, target, count):
    return lambda source, target, count: _copy(source, target, count)


@intrinsic
def _copy(typing, source, target, count):
    def generate(context, builder, signature, arguments):
        byte = ir.IntType(8).as_pointer()
        first, second = (builder.inttoptr(address, byte) for address in arguments[:2])
        cgutils.raw_memcpy(builder, second, first, arguments[2], 1)

    return types.void(types.int64, types.int64, types.int64), generate
