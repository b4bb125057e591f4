"""Memory of a run: allocated once, seen as contiguous arrays for any batch size, and for parts of a batch."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from repurpose_hpc.kernels import aligned

# Parts of so many samples begin on a cache line.
_ALIGNED_SAMPLES = 16


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
    """A batch in at most ``most`` parts, all but the last of one size."""
    size = -(-batch // most)
    if size > _ALIGNED_SAMPLES:
        size = -(-size // _ALIGNED_SAMPLES) * _ALIGNED_SAMPLES
    return [Part(min(size, batch - first), first, first // size) for first in range(0, batch, size)]


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
        return self.view(part, rows).reshape(-1, part.samples, self.values)


class Scratch:
    """Memory that operations use one after the other and whose contents nobody keeps.

    Everybody says first (``reserve``) how much it will need, and takes it later.  Made for one
    operation, it can have its ``size`` at once.
    """

    def __init__(self, dtype: np.dtype, size: int = 0) -> None:
        self._dtype, self._size = dtype, size
        self._memory = aligned((0,), dtype)

    def reserve(self, size: int) -> None:
        """Provide for so many numbers."""
        self._size = max(self._size, size)

    def take(self, *shape: int) -> np.ndarray:
        """A C-contiguous array of no more than was reserved."""
        if self._memory.size < self._size:
            self._memory = aligned((self._size,), self._dtype)
        return self._memory[: math.prod(shape)].reshape(shape)
