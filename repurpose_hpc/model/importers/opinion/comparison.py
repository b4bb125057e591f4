"""How far an imported network may be from its original."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# Relative to the largest value that a tensor has for a sample.  Programs that compute in float32 are about
# 1e-6 apart; what is further apart than this is looked into.
TOLERANCE = 1e-5
# Of a file in half precision: constants of activations that are written out are rounded.
HALF_PRECISION_TOLERANCE = 1e-3
# Of a file that quantises to 16 bits: rounding often decides between two steps.
STEP_TOLERANCE = 1e-4
# Below this all is taken for zero: functions near 1 are rounded to so much, whatever they are added to.
_SMALLEST = 1e-11
_LARGEST = float(np.finfo(np.float32).max)
# How much more than perturbed inputs a rounding may change a value.
_MARGIN = 8.0


@dataclass(frozen=True)
class ImportCheck:
    """Result of a comparison that found no fault.

    Attributes:
        evaluator: name and version of the program that was compared with; None: none can run the model.
        largest_difference: of an output, relative to the largest output of its sample, where rounding at a
            jump or an overflow does not explain more; None likewise.
        reason: why there was no comparison; None: there was one.
    """

    evaluator: str | None
    largest_difference: float | None
    reason: str | None = None

    def __str__(self) -> str:
        if self.evaluator is None:
            return f"the import is not checked: {self.reason}"
        return f"the import agrees with {self.evaluator} to {self.largest_difference:.1e}"


def differences(y: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Differences relative to the largest value of each sample.

    Args:
        y: of the imported network, (samples, ...).
        expected: of the original, of the same shape.

    Returns:
        float64, of the same shape; infinite where one alone is a number.
    """
    y, expected = y.astype(np.float64), expected.astype(np.float64)
    with np.errstate(all="ignore"):
        result = np.abs(y - expected) / per_sample(scales(expected), expected)
        # What float32 cannot hold is infinite there.
        same = (np.isnan(y) & np.isnan(expected)) | (np.abs(y) > _LARGEST) & (np.sign(y) * np.inf == expected)
    result[same | (y == expected)] = 0
    return np.nan_to_num(result, nan=np.inf, posinf=np.inf)


def scales(expected: np.ndarray) -> np.ndarray:
    """The largest finite value of every sample, (samples,)."""
    values = np.abs(expected.reshape(len(expected), -1).astype(np.float64))
    return np.where(np.isfinite(values), values, 0).max(axis=1, initial=_SMALLEST)


def per_sample(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Values (samples,) in a shape that broadcasts to that of ``like``."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def allowance(expected: np.ndarray, perturbed: Iterable[np.ndarray], tolerance: float) -> np.ndarray:
    """How large ``differences`` may be, since inputs that differ by rounding differ as much.

    A value at a jump, of a comparison or of Round, is allowed the jump.  All others are allowed what is
    usual in their sample.

    Args:
        expected: (samples, ...).
        perturbed: the same for inputs that differ by rounding, one or more of them.
        tolerance: of all values.
    """
    spread = np.max([differences(values, expected) for values in perturbed], axis=0)
    usual = np.median(spread.reshape(len(spread), -1), axis=1)
    return tolerance + np.nan_to_num(_MARGIN * (spread + per_sample(usual, spread)))


def overflown(expected: np.ndarray, values: np.ndarray | None) -> bool:
    """True if a tensor is infinite somewhere for the evaluator alone.

    Args:
        expected: of the evaluator.
        values: of the network, as many; None: not known.
    """
    infinite = np.isinf(expected).ravel()
    if values is not None and values.size == infinite.size:
        infinite &= np.isfinite(values).ravel()
    return bool(infinite.any())
