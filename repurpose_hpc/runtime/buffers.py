"""Memory of a run: allocated once, seen as contiguous arrays for any batch size, and for parts of a batch."""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from repurpose_hpc.kernels import CACHE_LINE, aligned

# Parts of a multiple of so many samples begin on a cache line; larger ones are cut there.
_ALIGNED_SAMPLES, _LARGE_PART = 16, 64
# Bytes of a piece of an arena, unless an array is larger.  What is not used is never touched.
_LARGEST_PIECE = 1 << 26


class Part(NamedTuple):
    """Samples of a batch that go through the network together.

    Attributes:
        samples: how many.
        first: of them, in the batch.
        number: of the part.
    """

    samples: int
    first: int = 0
    number: int = 0


def parts_of(batch: int, most: int) -> list[Part]:
    """A batch in ``most`` parts of about the same size, or as many as it has samples."""
    count = min(most, batch)
    unit = _ALIGNED_SAMPLES if batch >= _LARGE_PART * count else 1
    units = -(-batch // unit)
    ends = [min(unit * (units * number // count), batch) for number in range(count + 1)]
    return [Part(end - first, first, number) for number, (first, end) in enumerate(pairwise(ends))]


class Buffer:
    """Room for the values of ``rows`` neurons in each of up to ``max_batch`` samples, neuron-major.

    Attributes:
        rows: neurons, or partial sums.
        values: values per neuron and sample.
        flat: the memory, (rows * max_batch * values,), aligned to 64 bytes.
    """

    def __init__(self, rows: int, max_batch: int, dtype: np.dtype, values: int = 1) -> None:
        self.rows, self.values = rows, values
        self.move(aligned((rows * max_batch * values,), dtype))

    def move(self, memory: np.ndarray) -> None:
        """Go on, with zeros, in other memory of the shape of ``flat``; views so far stay where they are."""
        self.flat = memory
        self.flat.fill(0)

    def view(self, part: Part, rows: slice = slice(None)) -> np.ndarray:
        """``rows`` of a part as a C-contiguous (rows, samples * values) array on this memory."""
        start, stop, _ = rows.indices(self.rows)
        columns = part.samples * self.values
        memory = self.flat[self.rows * part.first * self.values :]
        return memory[start * columns : stop * columns].reshape(stop - start, columns)

    def maps(self, part: Part, rows: slice = slice(None)) -> np.ndarray:
        """``view`` as (rows, samples, values)."""
        view = self.view(part, rows)
        return view.reshape(len(view), part.samples, self.values)


class Arena:
    """Memory of arrays that last as long as a program, one behind the other in pieces that grow.

    Of large pieces the system makes large pages, where it is allowed to (NumPy asks for them): a processor
    that reads all weights one after the other then finds them sooner, also those of small blocks.
    """

    def __init__(self) -> None:
        self._size, self._rest = 0, np.empty(0, np.uint8)

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An uninitialised array, aligned to 64 bytes."""
        size = math.prod(shape) * dtype.itemsize
        place = -self._rest.ctypes.data % CACHE_LINE
        if place + size > len(self._rest):
            piece = max(size, min(self._size, _LARGEST_PIECE))
            self._rest, place = aligned((piece,), np.dtype(np.uint8)), 0
            self._size += piece
        memory, self._rest = self._rest[place : place + size], self._rest[place + size :]
        return memory.view(dtype).reshape(shape)


def sparse(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros, of which only what is written is in memory, in small pages; NumPy would ask for large ones."""
    size = max(1, math.prod(shape) * dtype.itemsize)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # Linux
        with suppress(OSError):  # a kernel without large pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)


class Scratch:
    """Memory that operations use one after the other; its contents are not kept.

    Every operation first reserves as much as it will need (``reserve``), and takes it later.  Scratch memory
    for one operation can have its ``size`` at once.
    """

    def __init__(self, dtype: np.dtype, size: int = 0) -> None:
        self.dtype, self._size = dtype, size
        self._memory = aligned((0,), dtype)

    def reserve(self, size: int) -> None:
        """Provide for so many numbers."""
        self._size = max(self._size, size)

    def take(self, *shape: int) -> np.ndarray:
        """A C-contiguous array of no more than was reserved."""
        if self._memory.size < self._size:
            self._memory = aligned((self._size,), self.dtype)
        return self._memory[: math.prod(shape)].reshape(shape)
