"""Many calls of kernels and C functions as one: a recording that a compiled loop carries out.

An instruction is a row of slots of 64 bits.  The first is the address of the *entry* of a kernel, or 0 for a
C function, the second the phase that its time is counted for; then come the arguments, each where the
declaration of the kernel says.  An entry is a function that reads them from its row and calls the kernel.  It
is written from the same declaration, and compiled when a call of the kernel is recorded: so a program has
those kernels compiled that it calls, for the types of its numbers.  The loop is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import accumulate
from typing import Any

import numba
import numpy as np

from .arguments import FIXED, TUPLES, Types, signatures
from .jit import CFunction, compile_unless_elsewhere, in_both, inlined, is_plain, jit
from .llvm.addresses import (
    MOST_ARGUMENTS,
    SIGNATURES,
    array_at,
    call_entry,
    call_function,
    read_clock,
)
from .registry import REGISTRY, Kernel, Registry

# Slots before the arguments: of a kernel the entry and the phase, of a C function also address and signature.
_HEADER, _CALL_HEADER = 2, 4
_CALL = 0
# Of what the loops take.
_LOOP_TYPES = numba.int64[:, ::1], numba.float64[::1], numba.int64


class Recording:
    """Calls in order, checked and packed; their arrays are kept.

    Everything a call refers to by address must outlive the recording.
    """

    def __init__(self, types: Types, registry: Registry = REGISTRY) -> None:
        """An empty one.

        Args:
            types: of the numbers in the kernels' arrays.
            registry: of the kernels.
        """
        self._types, self._registry = types, registry
        self._rows: list[list[int | float]] = []
        self._arguments: list[Sequence] = []
        self._instructions: np.ndarray | None = None

    def add_kernel(self, phase: int, function: Callable, arguments: Sequence[Any]) -> None:
        """Record ``function(*arguments)``.

        Args:
            phase: number of the phase.
            function: a kernel that can be on a recording.
            arguments: as it takes them.

        Raises:
            TypeError: there are more or fewer arguments, or one is not what the kernel declares; with the
                names of the kernel and the argument.
        """
        kernel = self._registry.find(function)
        if kernel is None or not kernel.replayed:
            raise TypeError(f"{function}: not a kernel that can be on a recording")
        if len(arguments) != len(kernel.arguments):
            raise TypeError(
                f"{kernel.name}: expected {len(kernel.arguments)} arguments, found {len(arguments)}"
            )
        packed: list[int | float] = []
        for (name, argument), value in zip(kernel.arguments.items(), arguments, strict=True):
            problem = argument.problem(value, self._types)
            if problem is not None:
                raise TypeError(f"{kernel.name}, argument {name!r}: {problem}")
            packed += argument.packed(value)
        self._append([_entry(kernel, self._types).address, phase, *packed], arguments)

    def add_call(self, phase: int, address: int, signature: str, arguments: Sequence[int]) -> None:
        """Record a call of a C function that returns an int, 0 if all is well.

        Args:
            phase: number of the phase.
            address: of the function.
            signature: C's types of its arguments, one of ``SIGNATURES``.
            arguments: integers, addresses and handles.

        Raises:
            ValueError: no such signature, more or fewer arguments, or one that is wider than C takes it.
        """
        if signature not in SIGNATURES:
            raise ValueError(f"expected a signature among {SIGNATURES}, found {signature!r}")
        check_call(signature, arguments)
        self._append([_CALL, phase, address, SIGNATURES.index(signature), *arguments], arguments)

    def run(self, seconds: np.ndarray, clock: int, times: np.ndarray | None = None, first: int = 0) -> int:
        """Carry it out.

        Args:
            seconds: by phase, float64; added to.
            clock: address of a C function without arguments that returns the time as a double.
            times: gets the times at which each call began and ended, (n, 2) float64; None: nobody asks.
            first: its row for the first call.

        Returns:
            0, or what the first C function returned that failed; nothing was done after that.
        """
        if self._instructions is None:
            self._instructions = _packed(self._rows)
        if times is None:
            return replay(self._instructions, seconds, clock)
        return replay_noting(self._instructions, seconds, clock, times, first)

    def _append(self, row: list[int | float], arguments: Sequence) -> None:
        self._rows.append(row)
        self._arguments.append(arguments)
        self._instructions = None


def check_call(signature: str, arguments: Sequence[int]) -> None:
    """Refuse arguments that are not those of a signature.

    Raises:
        ValueError: more or fewer arguments, or one that is wider than C takes it.
    """
    if len(arguments) != len(signature):
        raise ValueError(f"expected {len(signature)} arguments, found {len(arguments)}")
    for place, (letter, value) in enumerate(zip(signature, arguments, strict=True)):
        bits = 31 if letter == "i" else 63
        if not -(1 << bits) <= value < 1 << bits:
            raise ValueError(f"argument {place}: expected an integer of {bits + 1} bits, found {value}")


def compile_replay(functions: Iterable[Callable], types: Types, registry: Registry = REGISTRY) -> None:
    """Compile what replays calls of kernels, or load it from the cache.

    Processes that begin together share the work: what others are compiling comes last, and before that their
    kernels' parts, from the last on.

    Args:
        functions: kernels; those that cannot be on a recording are left out.
        types: of the numbers in the kernels' arrays.
        registry: of the kernels.
    """
    if is_plain():
        return
    kernels = [
        kernel for kernel in map(registry.find, dict.fromkeys(functions)) if kernel and kernel.replayed
    ]
    elsewhere = [kernel for kernel in kernels if not _entry(kernel, types).compile_unless_elsewhere()]
    for part in dict.fromkeys(part for kernel in elsewhere for part in reversed(kernel.parts)):
        (signature, *_) = signatures(registry.part_arguments(part), types)
        compile_unless_elsewhere(part, signature)
    for kernel in elsewhere:
        _entry(kernel, types).compile()
    replay.compile(_LOOP_TYPES)  # type: ignore[attr-defined]  # Numba's


def compile_noting() -> None:
    """Compile the loop that notes times, or load it from the cache."""
    if not is_plain():
        types = *_LOOP_TYPES, numba.float64[:, ::1], numba.int64
        replay_noting.compile(types)  # type: ignore[attr-defined]  # Numba's


@jit
def replay(instructions: np.ndarray, seconds: np.ndarray, clock: int) -> int:
    """Carry out instructions, (count, slots) int64; see ``Recording.run``."""
    began = read_clock(clock)
    for k in range(len(instructions)):
        row = instructions[k]
        status = _carry_out(row)
        ended = read_clock(clock)
        seconds[row[1]] += ended - began
        began = ended
        if status != 0:
            return status
    return 0


@jit
def replay_noting(
    instructions: np.ndarray, seconds: np.ndarray, clock: int, times: np.ndarray, first: int
) -> int:
    """``replay``, noting times.  A function of its own, so that who does not ask for them passes nothing."""
    began = read_clock(clock)
    for k in range(len(instructions)):
        row = instructions[k]
        status = _carry_out(row)
        ended = read_clock(clock)
        seconds[row[1]] += ended - began
        times[first + k, 0], times[first + k, 1] = began, ended
        began = ended
        if status != 0:
            return status
    return 0


@in_both
def _carry_out(row: np.ndarray) -> int:
    """Carry out an instruction."""
    if row[0] == _CALL:
        return call_function(row[2], row[3], row[_CALL_HEADER:])
    call_entry(row[0], row)
    return 0


@cache
def _entry(kernel: Kernel, types: Types) -> CFunction:
    """The entry of a kernel: a function of the address of a row."""
    name = "_".join(["enter", kernel.name, *map(str, types)])
    names: dict[str, Any] = {
        "__name__": __name__,
        "array_at": array_at,
        **TUPLES,
        **{kind: dtype.type for kind, dtype in {**FIXED, **types.by_kind()}.items()},
        kernel.name: inlined(kernel.function),
    }
    exec(compile(entry_source(kernel, name), __file__, "exec"), names)
    return CFunction(names[name], numba.void, numba.int64)


def entry_source(kernel: Kernel, name: str) -> str:
    """Python code of the entry of a kernel; the integers of a row are ``a``, its real numbers ``f``."""
    sizes = [argument.slots for argument in kernel.arguments.values()]
    begins = accumulate(sizes, initial=_HEADER)
    read = [argument.source(slot) for argument, slot in zip(kernel.arguments.values(), begins, strict=False)]
    shape = f"({_HEADER + sum(sizes)},)"
    return f"""\
def {name}(row):
    a, f = array_at(row, {shape}, integer), array_at(row, {shape}, double)
    {kernel.name}({", ".join(read)})
"""


def _packed(rows: Sequence[Sequence[int | float]]) -> np.ndarray:
    """Instructions, (count, slots) int64; real numbers as their bits."""
    slots = max(_CALL_HEADER + MOST_ARGUMENTS, *map(len, rows), 0)
    instructions = np.zeros((len(rows), slots), np.int64)
    reals = instructions.view(np.float64)
    for row, integers, floats in zip(rows, instructions, reals, strict=True):
        for slot, value in enumerate(row):
            (floats if isinstance(value, float | np.floating) else integers)[slot] = value
    return instructions
