"""Vectors of the processor, for the innermost loops that are written in the compiler's intermediate language.

Sums that stay in registers need vectors that the compiler would not find by itself.
"""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils
from numba.extending import overload

_FEATURES = get_host_cpu_features()
# Registers that hold a vector each: 32 with AVX-512, else (AVX2, SSE) 16 that can be counted on.
HAS_MANY_REGISTERS = bool(_FEATURES.get("avx512f") or not _FEATURES.get("sse2"))
# Loads and stores of some lanes: not with SSE or NEON.
HAS_MASKS = bool(_FEATURES.get("avx2"))
VECTOR_BYTES = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx2") else 16
CACHE_LINE = 64

_FUSED = ("contract",)


def lanes(dtype: np.dtype) -> int:
    """Numbers of this type in a vector."""
    return VECTOR_BYTES // dtype.itemsize


@overload(lanes, inline="always")
def _lanes(dtype):
    count = VECTOR_BYTES // (dtype.dtype.bitwidth // 8)
    return lambda dtype: count


def integer(value: int) -> ir.Constant:
    """A constant index."""
    return ir.Constant(ir.IntType(64), value)


def vector_at(builder, start, offset, vector):
    """The address of the vector that begins ``offset`` numbers behind the number at ``start``."""
    return builder.bitcast(builder.gep(start, [offset]), vector.as_pointer())


def fetch(builder, start, offset, nearest: bool, is_written: bool = False) -> None:
    """Have what is ``offset`` numbers behind ``start`` brought into the nearest cache, or the second.

    ``is_written``: it will be written, so no other processor is to have it.
    """
    place = builder.bitcast(builder.gep(start, [offset]), ir.IntType(8).as_pointer())
    flag = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), (place.type, flag, flag, flag))
    fetching = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    hints = int(is_written), 3 if nearest else 2, 1
    builder.call(fetching, [place, *(ir.Constant(flag, value) for value in hints)])


def vector_of(context, array):
    """The vector of numbers of an array, as Numba knows its type."""
    return ir.VectorType(context.get_data_type(array.dtype), VECTOR_BYTES * 8 // array.dtype.bitwidth)


def opened(context, builder, typs, arguments) -> list:
    """Arguments of an intrinsic: of arrays their address, shape and strides, all others as they are."""
    return [
        cgutils.create_struct_proxy(typ)(context, builder, value) if isinstance(typ, types.Array) else value
        for typ, value in zip(typs, arguments, strict=True)
    ]


def spread(builder, value, vector):
    """A vector of equal numbers."""
    undefined = ir.Constant(vector, ir.Undefined)
    single = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
    return builder.shuffle_vector(single, undefined, zeros)


def first_lanes(builder, count, vector):
    """A mask of the first ``count`` lanes, of all if there are fewer."""
    return builder.icmp_signed("<", *_numbered(builder, count, vector))


def lanes_between(builder, first, end, vector):
    """A mask of the lanes from ``first`` to ``end`` - 1, as far as there are such."""
    not_before = builder.icmp_signed(">=", *_numbered(builder, first, vector))
    return builder.and_(not_before, first_lanes(builder, end, vector))


def _numbered(builder, count, vector):
    """The number of each lane, and in each ``count``, or as near to it as makes no difference to a mask."""
    narrow, most = ir.IntType(32), integer(vector.count)
    count = builder.select(builder.icmp_signed("<", count, most), count, most)
    count = builder.select(builder.icmp_signed("<", count, integer(0)), integer(0), count)
    wide = ir.VectorType(narrow, vector.count)
    return ir.Constant(wide, list(range(vector.count))), spread(builder, builder.trunc(count, narrow), wide)


def load_lanes(builder, place, mask, others=None):
    """A vector of which only the lanes of ``mask`` are in memory, the rest ``others`` or 0; None: all are."""
    vector = place.type.pointee
    itemsize = itemsize_of(vector)
    if mask is None:
        return builder.load(place, align=itemsize)
    others = ir.Constant(vector, None) if others is None else others
    arguments = vector.as_pointer(), ir.IntType(32), mask.type, vector
    load = _masked(builder, "load", vector, vector, arguments)
    return builder.call(load, [place, ir.Constant(ir.IntType(32), itemsize), mask, others])


def store_lanes(builder, value, place, mask) -> None:
    """Store the lanes of ``mask``; None: all."""
    itemsize = itemsize_of(value.type)
    if mask is None:
        builder.store(value, place, align=itemsize)
        return
    arguments = value.type, place.type, ir.IntType(32), mask.type
    store = _masked(builder, "store", ir.VoidType(), value.type, arguments)
    builder.call(store, [value, place, ir.Constant(ir.IntType(32), itemsize), mask])


def gather_lanes(builder, start, step, mask, others):
    """Every ``step``-th number from ``start`` on, in the lanes of ``mask``; the rest as in ``others``."""
    vector, flag = others.type, ir.IntType(32)
    wide = ir.VectorType(ir.IntType(64), vector.count)
    itemsize = itemsize_of(vector)
    offsets = ir.Constant(wide, [lane * itemsize for lane in range(vector.count)])
    first = spread(builder, builder.ptrtoint(start, ir.IntType(64)), wide)
    places = builder.add(first, builder.mul(offsets, spread(builder, step, wide)))
    pointers = ir.VectorType(vector.element.as_pointer(), vector.count)
    kind = ir.FunctionType(vector, (pointers, flag, mask.type, vector))
    name = f"llvm.masked.gather.{_name_of(vector)}.v{vector.count}p0"
    gathering = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(gathering, [builder.inttoptr(places, pointers), flag(itemsize), mask, others])


def mask_of(builder, place, vector):
    """A mask from the bits of an integer in memory."""
    bits = builder.trunc(builder.load(place), ir.IntType(vector.count))
    return builder.bitcast(bits, ir.VectorType(ir.IntType(1), vector.count))


def every_second(builder, left, right):
    """The first, third, ... number of two vectors."""
    count = left.type.count
    even = ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(0, 2 * count, 2)))
    return builder.shuffle_vector(left, right, even)


def maximum(builder, left, right):
    """The larger numbers of two vectors, NaN where there is one in either."""
    return builder.call(_function(builder, "maximum", left.type, 2), [left, right], fastmath=("nsz",))


def absolute(builder, values):
    """Numbers without their signs."""
    return builder.call(_function(builder, "fabs", values.type, 1), [values])


def with_sign_of(builder, values, signs):
    """Numbers with the signs of others."""
    return builder.call(_function(builder, "copysign", values.type, 2), [values, signs])


def as_it_is(builder, values):
    """The same vector, computed before all that is computed from it: sums are not put in another order."""
    return builder.call(_function(builder, "arithmetic.fence", values.type, 1), [values])


def sum_of_lanes(builder, values):
    """The sum of the numbers of a vector."""
    vector = values.type
    kind = ir.FunctionType(vector.element, (vector.element, vector))
    function = cgutils.get_or_insert_function(
        builder.module, kind, f"llvm.vector.reduce.fadd.{_name_of(vector)}"
    )
    return builder.call(function, [ir.Constant(vector.element, 0.0), values], fastmath=("reassoc",))


def _function(builder, name, vector, arguments: int):
    kind = ir.FunctionType(vector, (vector,) * arguments)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.{_name_of(vector)}")


def _masked(builder, verb, result, vector, arguments):
    name = f"llvm.masked.{verb}.{_name_of(vector)}.p0"
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def _name_of(vector) -> str:
    """The compiler's name of a type."""
    return f"v{vector.count}{'i' if isinstance(vector.element, ir.IntType) else 'f'}{8 * itemsize_of(vector)}"


def itemsize_of(vector) -> int:
    """Bytes of a number."""
    if isinstance(vector.element, ir.IntType):
        return vector.element.width // 8
    return 4 if vector.element == ir.FloatType() else 8


@contextmanager
def rolled(builder, end, step: int = 1):
    """Emit a loop and yield its number, every ``step``-th from 0 to ``end`` - 1.

    The compiler leaves it as it is: where there are many loops that are long already, unrolling them takes
    more time than it saves.
    """
    module = builder.module
    node = module.add_metadata([module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])])
    node.operands = (node, *node.operands)
    before, test, body, after = builder.block, *(builder.append_basic_block() for _ in range(3))
    builder.branch(test)
    builder.position_at_end(test)
    number = builder.phi(end.type)
    number.add_incoming(integer(0), before)
    builder.cbranch(builder.icmp_signed("<", number, end), body, after)
    builder.position_at_end(body)
    yield number
    number.add_incoming(builder.add(number, integer(step)), builder.block)
    builder.branch(test).set_metadata("llvm.loop", node)
    builder.position_at_end(after)


def variable(builder, value):
    """A variable that the compiler keeps in a register, with a vector as its first value."""
    place = cgutils.alloca_once(builder, value.type)
    builder.store(value, place)
    return place


def zero(builder, vector):
    """A sum, in such a variable."""
    return variable(builder, ir.Constant(vector, None))


def add_product(builder, total, left, right) -> None:
    """``total`` += left right, without rounding in between."""
    product = builder.fmul(left, right, flags=_FUSED)
    builder.store(builder.fadd(builder.load(total), product, flags=_FUSED), total)


def accumulate(builder, ends, add, columns, products) -> None:
    """Vectors of sums in memory (+)= Σ_k of products, k in a range; meanwhile they are in registers.

    Args:
        ends: addresses of the sums.
        add: a flag: to what is there; else it is overwritten.
        columns: the first k, and the one behind the last.
        products: from k to the products' factors: (number of the sum, left, right), vectors.
    """
    vector = ends[0].type.pointee
    sums = [zero(builder, vector) for _ in ends]
    with builder.if_then(add):
        for total, end in zip(sums, ends, strict=True):
            builder.store(builder.load(end, align=itemsize_of(vector)), total)
    with cgutils.for_range_slice(builder, *columns, integer(1), inc=True) as (k, _):
        for number, left, right in products(k):
            add_product(builder, sums[number], left, right)
    for total, end in zip(sums, ends, strict=True):
        builder.store(builder.load(total), end, align=itemsize_of(vector))
