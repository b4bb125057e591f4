"""Normalisation within groups of neurons: by mean and deviation, or by the root mean square."""

from __future__ import annotations

import numpy as np

from ..arguments import EPILOGUE, FLOAT, INTEGER, REAL, Array, Epilogue
from ..jit import jit
from ..registry import Need, kernel
from .activations import activate_in_place

# Columns at a time: their rows stay in a cache while they are read again.
COLUMNS = 64
# Sums of a single column, so that they are those of a vector.
SUMS = 32

_MATRIX, _VECTOR = Array(REAL, 2), Array(REAL, 1)


@kernel(
    arguments={
        "x": _MATRIX,
        "size": INTEGER,
        "weight": FLOAT,
        "epsilon": FLOAT,
        "is_centred": INTEGER,
        "scale": _VECTOR,
        "shift": _VECTOR,
        "out": _MATRIX,
        "epilogue": EPILOGUE,
    },
    need=Need.NONE,
    replayed=True,
)
def normalise(
    x: np.ndarray,
    size: int,
    weight: float,
    epsilon: float,
    is_centred: int,
    scale: np.ndarray,
    shift: np.ndarray,
    out: np.ndarray,
    epilogue: Epilogue,
) -> None:
    """out = act(scale (x - mean) / sqrt(mean of (x - mean)² + epsilon) + shift), means being those of groups.

    Args:
        x: (n, columns).
        size: neurons of a group, which follow one another; it divides n.
        weight: of each of them in a mean.
        epsilon: see above.
        is_centred: 1; 0: without the first mean.
        scale, shift: (n,).
        out: as x, possibly x itself.
        epilogue: activation.
    """
    (rows, columns), real = x.shape, x.dtype.type
    sums = np.empty((2, max(COLUMNS, SUMS)), x.dtype)
    for first in range(0, rows, max(size, 1)):
        group = slice(first, first + size)
        if columns == 1:
            source, target = x.reshape(-1)[group], out.reshape(-1)[group]
            mean = real(weight) * _sum(source, sums[0]) if is_centred else real(0)
            variance = real(weight) * _sum_of_squares(source, mean, sums[0])
            factor = real(1) / np.sqrt(variance + real(epsilon))
            a, b = scale[group], shift[group]
            for j in range(size):
                target[j] = a[j] * ((source[j] - mean) * factor) + b[j]
            continue
        for begin in range(0, columns, COLUMNS):
            end = min(begin + COLUMNS, columns)
            means, factors = sums[0, : end - begin], sums[1, : end - begin]
            _means_and_factors(x[group, begin:end], real(weight), real(epsilon), is_centred, means, factors)
            for j in range(first, first + size):
                row, result, a, b = x[j, begin:end], out[j, begin:end], scale[j], shift[j]
                for t in range(row.size):
                    result[t] = a * ((row[t] - means[t]) * factors[t]) + b
    activate_in_place(out, epilogue.code, epilogue.alpha, epilogue.beta)


@jit
def _sum(values: np.ndarray, sums: np.ndarray) -> float:
    """The sum of numbers, in several sums, for which there is memory."""
    sums[:SUMS] = 0
    for first in range(0, values.size, SUMS):
        for t in range(min(SUMS, values.size - first)):
            sums[t] += values[first + t]
    return _total(sums)


@jit
def _sum_of_squares(values: np.ndarray, mean: float, sums: np.ndarray) -> float:
    """That of the squared differences from ``mean``."""
    sums[:SUMS] = 0
    for first in range(0, values.size, SUMS):
        for t in range(min(SUMS, values.size - first)):
            difference = values[first + t] - mean
            sums[t] += difference * difference
    return _total(sums)


@jit
def _total(sums: np.ndarray) -> float:
    total = sums.dtype.type(0)
    for t in range(SUMS):
        total += sums[t]
    return total


@jit
def _means_and_factors(
    x: np.ndarray, weight: float, epsilon: float, is_centred: int, means: np.ndarray, factors: np.ndarray
) -> None:
    """The mean of every column, 0 if it is not ``is_centred``, and the inverse of the deviation."""
    means[:] = 0
    if is_centred:
        for j in range(len(x)):
            for t in range(means.size):
                means[t] += x[j, t]
        for t in range(means.size):
            means[t] *= weight
    factors[:] = 0
    for j in range(len(x)):
        for t in range(means.size):
            difference = x[j, t] - means[t]
            factors[t] += difference * difference
    for t in range(means.size):
        factors[t] = x.dtype.type(1) / np.sqrt(weight * factors[t] + epsilon)
