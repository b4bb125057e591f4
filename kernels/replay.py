"""Many calls of kernels and C functions as one: a list of instructions that a compiled loop carries out.

An instruction is a row of integers: its code, the phase that its time is counted for, and the addresses and
sizes of what the kernel takes; parameters of activations are beside it.  The arrays belong to
whoever made the tape and must outlive it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numba
import numpy as np

from .jit import jit
from .llvm.addresses import MOST_ARGUMENTS, call_function, pointer, read_clock
from .maps.activations import activate_in_place
from .messages.comm_dtype import pack_codes, unpack_codes
from .messages.flags import await_read, collect, publish
from .messages.packing import clear, copy_blocks, pack, unpack_add
from .products.csr import INDEX_DTYPE, csr_batch, csr_vector
from .products.dense import dense

CALL, DENSE, CSR_VECTOR, CSR_BATCH, ACTIVATE, AWAIT_READ, PUBLISH, COLLECT = range(8)
CLEAR, PACK, UNPACK_ADD, PACK_CODES, UNPACK_CODES, COPY_BLOCKS = range(8, 14)
_CODES = {
    dense: DENSE,
    csr_vector: CSR_VECTOR,
    csr_batch: CSR_BATCH,
    activate_in_place: ACTIVATE,
    await_read: AWAIT_READ,
    publish: PUBLISH,
    collect: COLLECT,
    clear: CLEAR,
    pack: PACK,
    unpack_add: UNPACK_ADD,
    pack_codes: PACK_CODES,
    unpack_codes: UNPACK_CODES,
    copy_blocks: COPY_BLOCKS,
}
# Code and phase, then the longest list of addresses and sizes: that of ``dense``.
_SLOTS = 20


def is_on_tape(function: Callable) -> bool:
    """Whether a kernel has an instruction."""
    return function in _CODES


def kernel_instruction(phase: int, kernel: Callable, arguments: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """The instruction for ``kernel(*arguments)``: integers, and the activation's two parameters.

    Args:
        phase: number of the phase.
        kernel: one for which ``is_on_tape`` holds.
        arguments: arrays, then integers and floats if there are any.
    """
    slots, reals = [_CODES[kernel], phase], [0.0, 0.0]
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            slots += [argument.ctypes.data, *argument.shape]
        elif isinstance(argument, int):
            slots.append(argument)
    parameters = [argument for argument in arguments if isinstance(argument, float)]
    reals[: len(parameters)] = parameters
    return _padded(slots), np.array(reals)


def call_instruction(phase: int, address: int, arguments: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The instruction for a C function that returns an int, 0 if all is well, with 1 to 10 arguments."""
    if not 0 < len(arguments) <= MOST_ARGUMENTS:
        raise ValueError(f"expected 1 to {MOST_ARGUMENTS} arguments, got {len(arguments)}")
    return _padded([CALL, phase, address, len(arguments), *arguments]), np.zeros(2)


def _padded(slots: list[int]) -> np.ndarray:
    row = np.zeros(_SLOTS, np.int64)
    row[: len(slots)] = slots
    return row


@jit
def play(
    instructions: np.ndarray,
    reals: np.ndarray,
    seconds: np.ndarray,
    clock: int,
    real: np.ndarray,
    stored: np.ndarray,
    codes: np.ndarray | None,
) -> int:
    """Carry out a tape.

    Args:
        instructions: (count, slots) int64.
        reals: (count, 2) float64.
        seconds: by phase, float64; added to.
        clock: address of a function without arguments that returns the time as a double.
        real, stored: any arrays of the types of numbers and of dense weights.
        codes: any array of the type of codes; None: numbers travel as they are, and nothing that makes or
            reads codes is compiled.

    Returns:
        0, or what the first C function returned that failed; nothing was done after that.
    """
    index, integer = np.empty(0, INDEX_DTYPE), np.empty(0, np.int64)
    single = np.empty(0, np.float32)
    began = read_clock(clock)
    for k in range(len(instructions)):
        a, alpha, beta = instructions[k], reals[k, 0], reals[k, 1]
        status = 0
        if a[0] == CALL:
            status = call_function(a[2], a[3], a[4:])
        elif a[0] == DENSE:
            panels = numba.carray(pointer(a[2], stored), (a[3], a[4], a[5]))
            scales, scratch = _row(a, 6, real), _row(a, 17, real)
            X, start, out = _rows(a, 8, real), _rows(a, 11, real), _rows(a, 14, real)
            dense(panels, scales, X, start, out, scratch, a[19], alpha, beta)
        elif a[0] == CSR_VECTOR:
            data, indices, indptr = _row(a, 2, real), _row(a, 4, index), _row(a, 6, index)
            x, first, y = _row(a, 8, real), _row(a, 10, real), _row(a, 12, real)
            csr_vector(data, indices, indptr, x, first, y, a[14], alpha, beta)
        elif a[0] == CSR_BATCH:
            data, indices, indptr = _row(a, 2, real), _row(a, 4, index), _row(a, 6, index)
            X, start, out = _rows(a, 8, real), _rows(a, 11, real), _rows(a, 14, real)
            csr_batch(data, indices, indptr, X, start, out, a[17], alpha, beta)
        elif a[0] == ACTIVATE:
            activate_in_place(_rows(a, 2, real), a[5], alpha, beta)
        elif a[0] == AWAIT_READ:
            await_read(_row(a, 2, integer), _row(a, 4, integer))
        elif a[0] == PUBLISH:
            publish(_row(a, 2, integer))
        elif a[0] == COLLECT:
            collect(_rows(a, 2, integer), _row(a, 5, integer))
        elif a[0] == CLEAR:
            clear(_rows(a, 2, real))
        elif a[0] == PACK:
            pack(_rows(a, 2, real), _row(a, 5, index), _rows(a, 7, real))
        elif a[0] == UNPACK_ADD:
            unpack_add(_rows(a, 2, real), _row(a, 5, index), _rows(a, 7, real))
        elif a[0] == COPY_BLOCKS:
            copy_blocks(_rows(a, 2, integer))
        elif codes is not None:
            if a[0] == PACK_CODES:
                pack_codes(_rows(a, 2, real), _row(a, 5, index), _row(a, 7, single), _rows(a, 9, codes))
            elif a[0] == UNPACK_CODES:
                unpack_codes(_rows(a, 2, codes), _row(a, 5, single), _rows(a, 7, real))
        ended = read_clock(clock)
        seconds[a[1]] += ended - began
        began = ended
        if status != 0:
            return status
    return 0


def compile_player(real: np.ndarray, stored: np.ndarray, codes: np.ndarray | None = None) -> None:
    """Compile ``play`` for tapes of these types, or load it from the cache, without playing anything."""
    if not numba.config.DISABLE_JIT:
        arguments = np.empty((0, _SLOTS), np.int64), np.empty((0, 2)), np.empty(0), 0
        types = real.reshape(-1), stored.reshape(-1), None if codes is None else codes.reshape(-1)
        play.compile(tuple(numba.typeof(each) for each in (*arguments, *types)))


@jit
def _row(a: np.ndarray, slot: int, like: np.ndarray) -> np.ndarray:
    """The one-dimensional array whose address and size begin at ``slot``."""
    return numba.carray(pointer(a[slot], like), (a[slot + 1],))


@jit
def _rows(a: np.ndarray, slot: int, like: np.ndarray) -> np.ndarray:
    """The two-dimensional array whose address and shape begin at ``slot``."""
    return numba.carray(pointer(a[slot], like), (a[slot + 1], a[slot + 2]))
