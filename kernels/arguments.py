"""Kinds of arguments that kernels declare, and the values of several parts among them.

A kind says what is compiled for an argument, which values it takes, and how a value lies in an instruction of
a recording: in slots of 64 bits, the address and the shape of an array, or the numbers of a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numba
import numpy as np

INDEX_DTYPE = np.uint32
Pair = tuple[int, int]


class Epilogue(NamedTuple):
    """The activation that ends a step: one of ``ACTIVATION_CODES``, and its parameters."""

    code: int
    alpha: float
    beta: float


class Window2D(NamedTuple):
    """Windows on maps, in pairs for rows and columns; the pads are those before the map."""

    kernel: Pair
    strides: Pair
    dilations: Pair
    pads: Pair


class Region(NamedTuple):
    """A rectangle of a map, in pairs for rows and columns: the first one, and the end."""

    first: Pair
    end: Pair

    @classmethod
    def whole(cls, shape: Pair) -> Region:
        """All of a map."""
        return cls((0, 0), shape)


class AttentionRule(NamedTuple):
    """What becomes of the products of queries with keys, and which keys a query sees.

    Attributes:
        scale: factor of the products.
        softcap: c: scores then become c · tanh(score / c); 0: they stay.
        before, after: query i sees key j if past + i - before <= j <= past + i + after; -1: there is no
            limit.
        past: keys before that of the first query.
    """

    scale: float
    softcap: float
    before: int
    after: int
    past: int = 0


class MembraneRule(NamedTuple):
    """What neurons that integrate and fire have in common.

    Attributes:
        steps: that maps consist of.
        reset: what a spike does to the potential, one of ``RESET_CODES``.
        is_delayed: 1: it does so in the next step, after the decay.
        fires: 1: spikes are wanted; 0: the potential.
    """

    steps: int
    reset: int
    is_delayed: int
    fires: int


class Types(NamedTuple):
    """Types of numbers in a run.

    Attributes:
        real: of sums.
        stored: of weights.
        codes: of the codes of messages; None: there are none.
        kept: of keys and values of earlier tokens; None: as of sums.
    """

    real: np.dtype
    stored: np.dtype
    codes: np.dtype | None = None
    kept: np.dtype | None = None

    def by_kind(self) -> dict[str, np.dtype]:
        """Those that there are, under the names of the kinds."""
        kinds = {**self._asdict(), KEPT: self.kept or self.real}
        return {kind: dtype for kind, dtype in kinds.items() if dtype is not None}


class ArgumentKind(Protocol):
    """A kind of argument."""

    @property
    def slots(self) -> int:
        """Slots of an instruction that a value takes."""

    def compiled(self, types: Types) -> list[Any]:
        """Numba's types that a run needs: one for each way in which the kernel is called."""

    def problem(self, value: object, types: Types) -> str | None:
        """The reason why ``value`` cannot be recorded, if there is one."""

    def packed(self, value: Any) -> Iterator[int | float]:
        """The numbers for the slots, of a value without a problem."""

    def source(self, slot: int) -> str:
        """The expression that reads it: from the integers ``a`` or the real numbers ``f`` in the slots."""


# Dtypes that depend on the run.  UNSIGNED: as wide as its numbers, and as its codes.
REAL, STORED, CODES, KEPT, UNSIGNED = "real", "stored", "codes", "kept", "unsigned"
# Those that do not, under the names that they have in the loop that replays.
FIXED: dict[str, np.dtype] = {
    "index": np.dtype(INDEX_DTYPE),
    "integer": np.dtype(np.int64),
    "single": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "byte": np.dtype(np.int8),
}
INDEX, INTEGERS, SINGLE, DOUBLE, BYTE = FIXED


@dataclass(frozen=True)
class Array:
    """A C-contiguous and writable array.

    Attributes:
        kind: of its numbers, one of the names above.
        ndim: its dimensions.
        also: dimensions that it may have as well when the kernel is called directly.
    """

    kind: str
    ndim: int
    also: tuple[int, ...] = ()

    @property
    def slots(self) -> int:
        """See ``ArgumentKind``."""
        return 1 + self.ndim

    def compiled(self, types: Types) -> list[Any]:
        """See ``ArgumentKind``."""
        return [
            numba.types.Array(numba.from_dtype(dtype), ndim, "C")
            for dtype in self._dtypes(types)
            for ndim in (self.ndim, *self.also)
        ]

    def problem(self, value: object, types: Types) -> str | None:
        """See ``ArgumentKind``."""
        if not isinstance(value, np.ndarray):
            return f"expected an array, found {type(value).__name__}"
        dtypes = self._dtypes(types)
        if value.dtype not in dtypes:
            return f"expected numbers of {' or '.join(map(str, dtypes)) or 'no type'}, found {value.dtype}"
        if value.ndim != self.ndim:
            return f"expected {self.ndim} dimensions, found {value.ndim}"
        flags = value.flags
        if not (flags.c_contiguous and flags.aligned):
            return "expected a C-contiguous, aligned array"
        return None

    def packed(self, value: Any) -> Iterator[int | float]:
        """See ``ArgumentKind``."""
        yield value.ctypes.data
        yield from value.shape

    def source(self, slot: int) -> str:
        """See ``ArgumentKind``."""
        shape = "".join(f"a[{slot + 1 + axis}], " for axis in range(self.ndim))
        return f"array_at(a[{slot}], ({shape}), {self.kind})"

    def _dtypes(self, types: Types) -> list[np.dtype]:
        if self.kind in FIXED:
            return [FIXED[self.kind]]
        if self.kind == UNSIGNED:
            dtypes = types.real, types.real if types.codes is None else types.codes
            return list(dict.fromkeys(np.dtype(f"u{dtype.itemsize}") for dtype in dtypes))
        known = types.by_kind()
        return [known[self.kind]] if self.kind in known else []


@dataclass(frozen=True)
class Arrays:
    """A named tuple of arrays, of a kernel that is called directly.

    Attributes:
        tuple_type: the class.
        parts: the arrays by field, in order.
    """

    tuple_type: type
    parts: Mapping[str, Array]

    @property
    def slots(self) -> int:
        """See ``ArgumentKind``."""
        return sum(part.slots for part in self.parts.values())

    def compiled(self, types: Types) -> list[Any]:
        """See ``ArgumentKind``."""
        parts = [part.compiled(types)[0] for part in self.parts.values()]
        return [numba.types.NamedTuple(parts, self.tuple_type)]

    def problem(self, value: object, types: Types) -> str | None:
        """See ``ArgumentKind``."""
        return "expected an argument that can be recorded, found arrays of a kernel that is called directly"

    def packed(self, value: Any) -> Iterator[int | float]:
        """See ``ArgumentKind``."""
        for name, part in self.parts.items():
            yield from part.packed(getattr(value, name))

    def source(self, slot: int) -> str:
        """See ``ArgumentKind``."""
        raise TypeError(f"{self.tuple_type.__name__}: arrays of a kernel that is called directly")


@dataclass(frozen=True)
class Value:
    """Numbers: an integer, a real number, or a tuple of them, like ``example``."""

    example: Any

    @property
    def slots(self) -> int:
        """See ``ArgumentKind``."""
        return sum(1 for _ in _leaves(self.example))

    def compiled(self, types: Types) -> list[Any]:
        """See ``ArgumentKind``."""
        return [numba.typeof(self.example)]

    def problem(self, value: object, types: Types) -> str | None:
        """See ``ArgumentKind``."""
        if _is_like(self.example, value):
            return None
        return f"expected a value like {self.example!r}, found {value!r}"

    def packed(self, value: Any) -> Iterator[int | float]:
        """See ``ArgumentKind``."""
        return _leaves(value)

    def source(self, slot: int) -> str:
        """See ``ArgumentKind``."""
        return _read(self.example, slot)


INTEGER, FLOAT, PAIR = Value(0), Value(0.0), Value((0, 0))
EPILOGUE = Value(Epilogue(0, 0.0, 0.0))
WINDOW = Value(Window2D(*[(0, 0)] * 4))
REGION = Value(Region(*[(0, 0)] * 2))
ATTENTION = Value(AttentionRule(0.0, 0.0, 0, 0))
MEMBRANE = Value(MembraneRule(0, 0, 0, 0))
# Named in the loop that replays.
TUPLES: dict[str, Callable] = {
    tuple_type.__name__: tuple_type
    for tuple_type in (AttentionRule, Epilogue, MembraneRule, Region, Window2D)
}


def signatures(arguments: Mapping[str, ArgumentKind], types: Types) -> list[tuple[Any, ...]]:
    """Numba's types of all arguments, for each way in which a run calls the kernel; none if it does not."""
    kinds = [argument.compiled(types) for argument in arguments.values()]
    count = 0 if any(not alternatives for alternatives in kinds) else max(map(len, kinds))
    return [tuple(alternatives[k % len(alternatives)] for alternatives in kinds) for k in range(count)]


def _leaves(value: Any) -> Iterator[int | float]:
    if isinstance(value, tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _is_like(example: Any, value: object) -> bool:
    if isinstance(example, tuple):
        if type(value) is not type(example):
            return False
        return len(value) == len(example) and all(map(_is_like, example, value))
    if isinstance(example, float):
        return isinstance(value, float | np.floating)
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _read(example: Any, slot: int) -> str:
    if not isinstance(example, tuple):
        return f"{'f' if isinstance(example, float) else 'a'}[{slot}]"
    parts = []
    for part in example:
        parts.append(_read(part, slot))
        slot += sum(1 for _ in _leaves(part))
    name = "" if type(example) is tuple else type(example).__name__
    return f"{name}({', '.join(parts)}{'' if name else ','})"
