"""MPI functions by their C address: what compiled code needs to call them without Python in between.

mpi4py is linked with an MPI library; its functions are found where mpi4py's own module finds them.  Handles
are passed as the numbers that they are in C.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from repurpose_hpc.kernels.clock import monotonic

# Imported where it is used: importing it starts MPI, which a process without a communicator does not need.
if TYPE_CHECKING:
    from mpi4py import MPI


@dataclass(frozen=True)
class Function:
    """A C function that returns an error code.

    Attributes:
        name: in the MPI standard.
        address: where its code is.
    """

    name: str
    address: int

    def __call__(self, *arguments: int) -> None:
        """Call it; the arguments are integers or addresses."""
        kind = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_int64] * len(arguments))
        check(kind(self.address)(*arguments))


@cache
def function(name: str) -> Function:
    """The MPI function ``name``."""
    from mpi4py import MPI

    library = ctypes.CDLL(MPI.__file__)
    return Function(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)


def clock_address() -> int:
    """The address of a C function that returns the time in seconds: MPI's, where MPI was started."""
    return function("MPI_Wtime").address if "mpi4py.MPI" in sys.modules else monotonic.address


def handle(thing: MPI.Comm | MPI.Datatype) -> int:
    """A communicator or datatype as C knows it."""
    from mpi4py import MPI

    unsigned = MPI._handleof(thing)
    return unsigned - (unsigned >> 63 << 64)


def check(status: int) -> None:
    """Raise what mpi4py would for an error code."""
    if status:
        from mpi4py import MPI

        raise MPI.Exception(status)


class Span(NamedTuple):
    """Requests side by side in memory: how many, and where."""

    count: int
    address: int


class Requests:
    """Requests side by side in memory, as C takes them, with room for the statuses that they end with.

    Persistent ones are given back when this is gone.

    Attributes:
        all: where they are.
        statuses: where those are.
    """

    def __init__(self, requests: Sequence[MPI.Request]) -> None:
        from mpi4py import MPI

        self._requests, self._size = requests, MPI._sizeof(MPI.Request)
        self._is_finalized, self._null = MPI.Is_finalized, MPI.REQUEST_NULL
        handles = b"".join(ctypes.string_at(MPI._addressof(each), self._size) for each in requests)
        self._handles = np.frombuffer(bytearray(handles), np.uint8)
        self._statuses = np.zeros(len(requests) * MPI._sizeof(MPI.Status) // 4, np.intc)
        self.all = self.part(0, len(requests))
        self.statuses = self._statuses.ctypes.data

    def part(self, first: int, count: int) -> Span:
        """``count`` of them from number ``first`` on."""
        return Span(count, self._handles.ctypes.data + first * self._size)

    def __del__(self) -> None:
        for each in self._requests:
            if each != self._null and not self._is_finalized():
                each.Free()
