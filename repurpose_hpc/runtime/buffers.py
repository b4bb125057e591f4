"""Memory of a run: allocated once, seen as contiguous arrays for any batch size."""

from __future__ import annotations

import numpy as np

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector register


class Buffer:
    """Room for the values of ``rows`` neurons in each of up to ``max_batch`` samples, neuron-major.

    Attributes:
        rows: neurons, or partial sums.
        values: values per neuron and sample.
        flat: the memory, (rows * max_batch * values,), aligned to 64 bytes.
    """

    def __init__(self, rows: int, max_batch: int, dtype: np.dtype, values: int = 1) -> None:
        size = rows * max_batch * values * dtype.itemsize
        memory = np.zeros(size + _ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT
        self.rows, self.values = rows, values
        self.flat = memory[start : start + size].view(dtype)

    def view(self, batch: int, rows: slice = slice(None)) -> np.ndarray:
        """``rows`` of a batch as a C-contiguous (rows, batch * values) array on this memory."""
        start, stop, _ = rows.indices(self.rows)
        columns = batch * self.values
        return self.flat[start * columns : stop * columns].reshape(stop - start, columns)

    def maps(self, batch: int, rows: slice = slice(None)) -> np.ndarray:
        """``view`` as (rows, batch, values)."""
        return self.view(batch, rows).reshape(-1, batch, self.values)
