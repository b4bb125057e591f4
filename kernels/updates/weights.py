"""Steps of optimisers, in place: one pass over the weights, their gradient and what is kept of earlier ones.

All arrays of a call are flat, of one size and dtype; shapes are not checked.  Numbers of a step are rounded
to that dtype once, before the loop.  A weight that is 0 and has had no gradient but 0 stays exactly 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..arguments import REAL, Array, Value
from ..registry import Need, kernel

_FLAT = Array(REAL, 1)


class AdamWStep(NamedTuple):
    """Numbers of a step of AdamW.

    Attributes:
        rate: learning rate, divided by 1 - beta1ᵗ for step t from 1.
        root: 1 / √(1 - beta2ᵗ).
        beta1, beta2: share of the earlier mean and mean square that is kept.
        eps: added to the root of the mean square.
        decay: learning rate times weight decay.
    """

    rate: float
    root: float
    beta1: float
    beta2: float
    eps: float
    decay: float


class SGDStep(NamedTuple):
    """Numbers of a step of SGD: learning rate, share of the velocity that is kept, weight decay."""

    rate: float
    momentum: float
    decay: float


_ADAMW, _SGD = Value(AdamWStep(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)), Value(SGDStep(0.0, 0.0, 0.0))


@kernel(
    arguments={"weights": _FLAT, "gradient": _FLAT, "mean": _FLAT, "square": _FLAT, "step": _ADAMW},
    need=Need.NONE,
)
def adamw(
    weights: np.ndarray, gradient: np.ndarray, mean: np.ndarray, square: np.ndarray, step: AdamWStep
) -> None:
    """mean, square → running means of gradient and gradient²; weights → (1 - decay) weights - step.

    Args:
        weights, mean, square: (n,), changed in place.
        gradient: (n,).
        step: see ``AdamWStep``; the step is rate · mean / (root · √square + eps).
    """
    real = weights.dtype.type
    rate, root, eps = real(step.rate), real(step.root), real(step.eps)
    # Differences before they are rounded: 1 - float32(0.999) is wrong in the fifth digit.
    beta1, other1 = real(step.beta1), real(1 - step.beta1)
    beta2, other2 = real(step.beta2), real(1 - step.beta2)
    left = real(1 - step.decay)
    for i in range(weights.size):
        mean[i] = beta1 * mean[i] + other1 * gradient[i]
        square[i] = beta2 * square[i] + other2 * (gradient[i] * gradient[i])
        weights[i] = left * weights[i] - rate * mean[i] / (root * np.sqrt(square[i]) + eps)


@kernel(arguments={"weights": _FLAT, "gradient": _FLAT, "velocity": _FLAT, "step": _SGD}, need=Need.NONE)
def sgd(weights: np.ndarray, gradient: np.ndarray, velocity: np.ndarray, step: SGDStep) -> None:
    """velocity → momentum · velocity + gradient + decay · weights; weights → weights - rate · velocity.

    Args:
        weights, velocity: (n,), changed in place.
        gradient: (n,).
        step: see ``SGDStep``.
    """
    real = weights.dtype.type
    rate, momentum, decay = real(step.rate), real(step.momentum), real(step.decay)
    for i in range(weights.size):
        velocity[i] = momentum * velocity[i] + (gradient[i] + decay * weights[i])
        weights[i] -= rate * velocity[i]
