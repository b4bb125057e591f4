"""Memory of a run: allocated once, seen as contiguous arrays for any batch size."""

from __future__ import annotations

import numpy as np

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector register


class Buffer:
    """Room for ``rows`` values of each of up to ``max_batch`` samples, neuron-major.

    Attributes:
        rows: neurons, or partial sums.
        flat: the memory, (rows * max_batch,), aligned to 64 bytes.
    """

    def __init__(self, rows: int, max_batch: int, dtype: np.dtype) -> None:
        size = rows * max_batch * dtype.itemsize
        memory = np.zeros(size + _ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT
        self.rows = rows
        self.flat = memory[start : start + size].view(dtype)

    def view(self, batch: int, rows: slice = slice(None)) -> np.ndarray:
        """``rows`` of a batch as a C-contiguous (rows, batch) array on this memory."""
        start, stop, _ = rows.indices(self.rows)
        return self.flat[start * batch : stop * batch].reshape(-1, batch)
