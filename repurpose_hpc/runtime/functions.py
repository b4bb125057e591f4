"""MPI functions by their C address: what compiled code needs to call them without Python in between.

mpi4py is linked with an MPI library; its functions are found where mpi4py's own module finds them.  Handles
are passed as the numbers that they are in C.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache

import numpy as np
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
    library = ctypes.CDLL(MPI.__file__)
    return Function(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)


def handle(thing: MPI.Comm | MPI.Datatype) -> int:
    """A communicator or datatype as C knows it."""
    unsigned = MPI._handleof(thing)
    return unsigned - (unsigned >> 63 << 64)


def check(status: int) -> None:
    """Raise what mpi4py would for an error code."""
    if status != MPI.SUCCESS:
        raise MPI.Exception(status)


class Requests:
    """Requests side by side in memory, as C takes them, with room for the statuses that they end with.

    Attributes:
        count: how many.
        address, statuses: where they are.
    """

    def __init__(self, requests: Sequence[MPI.Request]) -> None:
        self.count = len(requests)
        # Persistent ones must live; handles of all are copied.
        self._requests, size = requests, MPI._sizeof(MPI.Request)
        handles = b"".join(ctypes.string_at(MPI._addressof(each), size) for each in requests)
        self._handles = np.frombuffer(bytearray(handles), np.uint8)
        self._statuses = np.zeros(self.count * MPI._sizeof(MPI.Status) // 4, np.intc)
        self.address, self.statuses = self._handles.ctypes.data, self._statuses.ctypes.data

    def part(self, first: int, count: int) -> Requests:
        """``count`` of them from number ``first`` on, in the same memory."""
        part = copy(self)
        part.count, part.address = count, self.address + first * MPI._sizeof(MPI.Request)
        return part
