"""Arrays of a file that are in memory only while they are used: mapped, not read.

A mapping is no copy: its pages are those of the system's file cache.  A page counts as resident memory
of the process from its first use until the array is gone or the page is released, and comes back from
the file if it is used again.

The file must stay as it is while its arrays are used: what is written over it shows up in them, and where
it was cut off the process ends (SIGBUS).  Whoever needs weights for long packs a copy.
"""

from __future__ import annotations

import math
import mmap
import weakref
from typing import BinaryIO

import numpy as np


class MappedFile:
    """A file, as memory; changes to its arrays are not written to it."""

    def __init__(self, file: BinaryIO) -> None:
        # Writable, although nobody writes: kernels are compiled for writable arrays.
        self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def array(self, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """The C-contiguous array that starts ``offset`` bytes into the file."""
        flat = np.frombuffer(self._memory, dtype, math.prod(shape), offset)
        # All views of the array hold ``flat``: its end is theirs.
        weakref.finalize(flat, _drop, self._memory, offset, flat.nbytes).atexit = False
        return flat.reshape(shape)


def release(array: np.ndarray) -> None:
    """Let go the pages of ``array``, a contiguous part of a mapped array, that is not needed for now.

    With this, whoever copies an array piece by piece never has more than a piece of it resident.
    Other arrays are left alone.
    """
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    memory = owner.obj if isinstance(owner, memoryview) else owner
    if isinstance(memory, mmap.mmap):
        start = np.frombuffer(memory, np.uint8).ctypes.data
        _drop(memory, array.ctypes.data - start, array.nbytes)


def _drop(memory: mmap.mmap, offset: int, size: int) -> None:
    """Forget the pages that lie within ``size`` bytes from ``offset``."""
    first, last = (
        -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE,
        (offset + size) // mmap.PAGESIZE * mmap.PAGESIZE,
    )
    if first < last:
        memory.madvise(mmap.MADV_DONTNEED, first, last - first)
