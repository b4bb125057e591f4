"""Memory of a run: allocated once, seen as contiguous arrays for any batch size."""

from __future__ import annotations

import math

import numpy as np

from repurpose_hpc.kernels import aligned


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

    def view(self, batch: int, rows: slice = slice(None)) -> np.ndarray:
        """``rows`` of a batch as a C-contiguous (rows, batch * values) array on this memory."""
        start, stop, _ = rows.indices(self.rows)
        columns = batch * self.values
        return self.flat[start * columns : stop * columns].reshape(stop - start, columns)

    def maps(self, batch: int, rows: slice = slice(None)) -> np.ndarray:
        """``view`` as (rows, batch, values)."""
        return self.view(batch, rows).reshape(-1, batch, self.values)


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
