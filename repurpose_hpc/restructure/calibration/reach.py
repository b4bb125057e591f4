"""How far the values of a scaled format reach, and which neurons are outliers.

The largest value of a neuron sets the step of all others.  Where rounding takes little, it is reached.  Where
it takes more, as in four bits, values reach as far as leaves the least squared error, and larger ones become
the outermost.  Where that leaves little of a neuron, it is an outlier, and travels as float16.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from repurpose_hpc.plan.rounding import rounding_errors

# Parts of the largest value that are tried.
REACHES = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
# Of the mean square of a neuron: rounding that is little, and the most that it may be.
LITTLE, MOST_NOISE = 0.005, 0.05


class Settled(NamedTuple):
    """What is stored of the neurons of a tensor, or of relays.

    Attributes:
        scales: float32 (n,).
        outliers: bool (n,).
    """

    scales: np.ndarray
    outliers: np.ndarray


def attempts(x: np.ndarray, comm_dtype: str, scales: np.ndarray) -> np.ndarray:
    """Values, and what rounding them does with every reach: (n (1 + reaches), ...).

    Args:
        x: (n, ...).
        comm_dtype: a scaled format.
        scales: of the largest values, float32 (n,).
    """
    return np.concatenate([x, *(rounding_errors(x, comm_dtype, _reaching(scales, part)) for part in REACHES)])


def settled(scales: np.ndarray, mean_squares: np.ndarray) -> Settled:
    """The scales and outliers that leave the least.

    Args:
        scales: of the largest values, float32 (n,).
        mean_squares: of ``attempts``, (n (1 + reaches),).
    """
    squares, *noise = mean_squares.reshape(1 + len(REACHES), -1)
    best = np.where(noise[0] <= LITTLE * squares, 0, np.argmin(noise, axis=0))
    left = np.take_along_axis(np.stack(noise), best[None], axis=0)[0]
    return Settled(_reaching(scales, np.array(REACHES)[best]), left > MOST_NOISE * squares)


def _reaching(scales: np.ndarray, part: float | np.ndarray) -> np.ndarray:
    return (scales * part).astype(np.float32)
