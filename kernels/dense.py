"""Products with a dense block.

All four product kernels compute ``out = act(start + W x)``, with start broadcast to out as
in NumPy: a bias, or ``out`` itself to add to what is there already.  All arrays are
C-contiguous, writable and of one dtype (float32 or float64), and shapes are not checked.
"""

from __future__ import annotations

import numpy as np

from .activations import activate_in_place
from .jit import jit
from .rows import spread


@jit
def _dot(W: np.ndarray, row: int, samples: np.ndarray, b: int) -> float:
    total = W.dtype.type(0)
    for j in range(W.shape[1]):
        total += W[row, j] * samples[b, j]
    return total


@jit
def _four_dots(W: np.ndarray, row: int, samples: np.ndarray, b: int) -> tuple[float, float, float, float]:
    """Four rows at a time: x is loaded once for them, and four sums hide the latency of adding."""
    first = second = third = fourth = W.dtype.type(0)
    for j in range(W.shape[1]):
        value = samples[b, j]
        first += W[row, j] * value
        second += W[row + 1, j] * value
        third += W[row + 2, j] * value
        fourth += W[row + 3, j] * value
    return first, second, third, fourth


@jit
def dense_vector(
    W: np.ndarray, x: np.ndarray, start: np.ndarray, out: np.ndarray, code: int, alpha: float, beta: float
) -> None:
    """out = act(start + W x) for one sample.

    Args:
        W: (m, n).
        x: (n,), not overlapping out.
        start: (m,), a bias or ``out`` itself.
        out: (m,).
        code: activation, one of ``ACTIVATION_CODES``.
        alpha, beta: its parameters.
    """
    rows = W.shape[0]
    whole = rows - rows % 4
    samples = x.reshape(1, x.size)
    for i in range(0, whole, 4):
        first, second, third, fourth = _four_dots(W, i, samples, 0)
        out[i] = start[i] + first
        out[i + 1] = start[i + 1] + second
        out[i + 2] = start[i + 2] + third
        out[i + 3] = start[i + 3] + fourth
    for i in range(whole, rows):
        out[i] = start[i] + _dot(W, i, samples, 0)
    activate_in_place(out, code, alpha, beta)


@jit
def dense_batch(
    W: np.ndarray, X: np.ndarray, start: np.ndarray, out: np.ndarray, code: int, alpha: float, beta: float
) -> None:
    """out = act(start + W X) for a small batch; large ones are faster in BLAS (``blas_is_faster``).

    Four rows of W stay in the nearest cache while they meet every sample, so that W comes
    from memory once; the samples are transposed to be contiguous for that.

    Args:
        W: (m, n).
        X: (n, batch), neuron-major, not overlapping out.
        start: (m, 1), a bias, or (m, batch), possibly ``out`` itself.
        out: (m, batch).
        code: activation, one of ``ACTIVATION_CODES``.
        alpha, beta: its parameters.
    """
    rows = W.shape[0]
    whole = rows - rows % 4
    samples = X.T.copy()
    spread(start, out)
    for i in range(0, whole, 4):
        for b in range(samples.shape[0]):
            first, second, third, fourth = _four_dots(W, i, samples, b)
            out[i, b] += first
            out[i + 1, b] += second
            out[i + 2, b] += third
            out[i + 3, b] += fourth
    for i in range(whole, rows):
        for b in range(samples.shape[0]):
            out[i, b] += _dot(W, i, samples, b)
    activate_in_place(out, code, alpha, beta)
