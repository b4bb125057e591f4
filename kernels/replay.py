"""Many calls of kernels and C functions as one: a recording that a compiled loop carries out.

An instruction is a row of slots of 64 bits: its code, the phase that its time is counted for, and the
arguments, each where the declaration of the kernel says.  The loop is written from the same declarations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import accumulate
from typing import Any

import numba
import numpy as np

from .arguments import CODES, FIXED, TUPLES, ArgumentKind, Array, Types
from .jit import is_plain, jit
from .llvm.addresses import MOST_ARGUMENTS, SIGNATURES, array_at, call_function, read_clock
from .registry import REGISTRY, Kernel, Registry

# Slots before the arguments: of a kernel its code and the phase, of a C function also address and signature.
_HEADER, _CALL_HEADER = 2, 4
_CALL = 0


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
        self._kernels = {kernel.function: code for code, kernel in _codes(registry).items()}
        self._rows: list[list[int | float]] = []
        self._arguments: list[Sequence] = []
        self._instructions: np.ndarray | None = None
        self._loop = _loop(tuple(_codes(registry).values()))
        self._like = _examples(types)

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
        row: list[int | float] = [self._kernels[function], phase]
        for (name, argument), value in zip(kernel.arguments.items(), arguments, strict=True):
            problem = argument.problem(value, self._types)
            if problem is not None:
                raise TypeError(f"{kernel.name}, argument {name!r}: {problem}")
            row += argument.packed(value)
        self._append(row, arguments)

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

    def run(self, seconds: np.ndarray, clock: int) -> int:
        """Carry it out.

        Args:
            seconds: by phase, float64; added to.
            clock: address of a C function without arguments that returns the time as a double.

        Returns:
            0, or what the first C function returned that failed; nothing was done after that.
        """
        if self._instructions is None:
            self._instructions = _packed(self._rows, _slots(self._registry))
        return self._loop(self._instructions, seconds, clock, *self._like)

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


def compile_replay(types: Types, registry: Registry = REGISTRY) -> None:
    """Compile the loop for recordings of these types, or load it from the cache, without running any."""
    if not is_plain():
        arguments = np.empty((0, _slots(registry)), np.int64), np.empty(0), 0, *_examples(types)
        loop = _loop(tuple(_codes(registry).values()))
        loop.compile(tuple(map(numba.typeof, arguments)))  # type: ignore[attr-defined]  # Numba's


def _codes(registry: Registry) -> dict[int, Kernel]:
    """The kernels that can be on a recording by their codes; those that take codes of messages come last."""
    replayed = [kernel for kernel in registry.kernels if kernel.replayed]
    return dict(enumerate(sorted(replayed, key=_takes_codes), start=_CALL + 1))


def _takes_codes(kernel: Kernel) -> bool:
    return any(
        isinstance(argument, Array) and argument.kind == CODES for argument in kernel.arguments.values()
    )


def _slots(registry: Registry) -> int:
    """Slots of an instruction."""
    sizes = (sum(_sizes(kernel.arguments)) for kernel in _codes(registry).values())
    return max(_CALL_HEADER + MOST_ARGUMENTS, *(_HEADER + size for size in sizes), 0)


def _sizes(arguments: Mapping[str, ArgumentKind]) -> list[int]:
    return [argument.slots for argument in arguments.values()]


def _packed(rows: Sequence[Sequence[int | float]], slots: int) -> np.ndarray:
    """Instructions, (count, slots) int64; real numbers as their bits."""
    instructions = np.zeros((len(rows), slots), np.int64)
    reals = instructions.view(np.float64)
    for row, integers, floats in zip(rows, instructions, reals, strict=True):
        for slot, value in enumerate(row):
            (floats if isinstance(value, float | np.floating) else integers)[slot] = value
    return instructions


def _examples(types: Types) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Arrays that show the loop the types that it is for."""
    codes = None if types.codes is None else np.empty(0, types.codes)
    return np.empty(0, types.real), np.empty(0, types.stored), codes


@cache
def _loop(kernels: tuple[Kernel, ...]) -> Callable:
    """The loop that replays recordings of ``kernels``, which have the codes 1, 2, ... in this order."""
    source = loop_source(kernels)
    # Its name tells it from that of other kernels in Numba's cache.
    name = f"replay_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    names: dict[str, Any] = {
        "__name__": __name__,
        "np": np,
        "array_at": array_at,
        "call_function": call_function,
        "read_clock": read_clock,
        **TUPLES,
        **{f"dtype_of_{kind}": dtype.type for kind, dtype in FIXED.items()},
        **{kernel.name: kernel.function for kernel in kernels},
    }
    exec(compile(source.replace("def replay(", f"def {name}("), __file__, "exec"), names)
    return jit(names[name])


def loop_source(kernels: Sequence[Kernel]) -> str:
    """Python code of the loop: ``replay(instructions, seconds, clock, real, stored, codes)``.

    The integers of an instruction are ``a``, its real numbers ``f``.  ``codes`` None: nothing that makes or
    reads codes is compiled.
    """
    plain = "".join(_branch(k, 8, "elif", code) for code, k in enumerate(kernels, 1) if not _takes_codes(k))
    first = len(kernels) - sum(map(_takes_codes, kernels)) + 1
    coding = [(code, kernel) for code, kernel in enumerate(kernels, 1) if code >= first]
    of_codes = "".join(_branch(k, 12, "if" if code == first else "elif", code) for code, k in coding)
    return _TEMPLATE.format(
        examples="".join(f"    {kind} = np.empty(0, dtype_of_{kind})\n" for kind in FIXED),
        call=_CALL,
        header=_CALL_HEADER,
        plain=plain,
        of_codes=f"        elif codes is not None:\n{of_codes}" if coding else "",
    )


_TEMPLATE = """\
def replay(instructions, seconds, clock, real, stored, codes):
{examples}    numbers = instructions.view(np.float64)
    began = read_clock(clock)
    for k in range(len(instructions)):
        a, f = instructions[k], numbers[k]
        status = 0
        if a[0] == {call}:
            status = call_function(a[2], a[3], a[{header}:])
{plain}{of_codes}        ended = read_clock(clock)
        seconds[a[1]] += ended - began
        began = ended
        if status != 0:
            return status
    return 0
"""


def _branch(kernel: Kernel, indent: int, word: str, code: int) -> str:
    """The call of a kernel with the arguments of an instruction."""
    begins = accumulate(_sizes(kernel.arguments), initial=_HEADER)
    read = [argument.source(slot) for argument, slot in zip(kernel.arguments.values(), begins, strict=False)]
    space = " " * indent
    return f"{space}{word} a[0] == {code}:\n{space}    {kernel.name}({', '.join(read)})\n"
