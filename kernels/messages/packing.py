"""Moving rows between activations and message buffers, and blocks between buffers.

Activations are neuron-major, (neurons, batch); one sample travels as (neurons, 1).
``rows`` are uint32 (``INDEX_DTYPE``) and not checked against the number of neurons.
"""

from __future__ import annotations

import numpy as np

from ..arguments import INDEX, INTEGERS, REAL, Array
from ..llvm.addresses import copy_bytes
from ..registry import Need, kernel

_MATRIX, _ROWS = Array(REAL, 2), Array(INDEX, 1)


@kernel(arguments={"X": _MATRIX, "rows": _ROWS, "buffer": _MATRIX}, replayed=True)
def pack(X: np.ndarray, rows: np.ndarray, buffer: np.ndarray) -> None:
    """buffer[k] = X[rows[k]], with X (neurons, batch), rows (count,) and buffer (count, batch)."""
    for k in range(rows.size):
        row = rows[k]
        for b in range(X.shape[1]):
            buffer[k, b] = X[row, b]


@kernel(
    arguments={"X": _MATRIX, "samples": Array(INTEGERS, 1), "kept": _MATRIX}, need=Need.NONE, replayed=True
)
def keep_samples(X: np.ndarray, samples: np.ndarray, kept: np.ndarray) -> None:
    """kept[k, b] = X[k, samples[b]]: X (neurons, batch), samples (count,) int64 ascending.

    kept (neurons, count) may begin where X does: every number goes to a place that was read before.
    """
    for k in range(X.shape[0]):
        for b in range(samples.size):
            kept[k, b] = X[k, samples[b]]


@kernel(arguments={"buffer": _MATRIX, "rows": _ROWS, "X": _MATRIX})
def unpack(buffer: np.ndarray, rows: np.ndarray, X: np.ndarray) -> None:
    """X[rows[k]] = buffer[k], with buffer (count, batch), rows (count,) and X (neurons, batch)."""
    for k in range(rows.size):
        row = rows[k]
        for b in range(X.shape[1]):
            X[row, b] = buffer[k, b]


@kernel(arguments={"X": _MATRIX}, replayed=True)
def clear(X: np.ndarray) -> None:
    """X[...] = 0, with X (neurons, batch)."""
    X[:] = 0


@kernel(arguments={"buffer": _MATRIX, "rows": _ROWS, "X": _MATRIX}, replayed=True)
def unpack_add(buffer: np.ndarray, rows: np.ndarray, X: np.ndarray) -> None:
    """X[rows[k]] += buffer[k]; rows may repeat, and are added in order: the sum is reproducible."""
    for k in range(rows.size):
        row = rows[k]
        for b in range(X.shape[1]):
            X[row, b] += buffer[k, b]


@kernel(arguments={"blocks": Array(INTEGERS, 2)}, need=Need.NONE, replayed=True)
def copy_blocks(blocks: np.ndarray) -> None:
    """Copy blocks of memory: rows of (n, 3) int64 are the addresses to copy from and to, and bytes."""
    for k in range(len(blocks)):
        copy_bytes(blocks[k, 0], blocks[k, 1], blocks[k, 2])
