"""The learning rate of every step, and the order of the samples in every epoch."""

from __future__ import annotations

import math

import numpy as np


def rate(step: int, steps: int, warm_up: int, peak: float) -> float:
    """The learning rate of a step: a linear warm-up, then half a cosine from ``peak`` down to 0.

    Args:
        step: counted from 0; from ``steps`` on the rate is 0.
        steps: of the run.
        warm_up: steps of the warm-up, 0 or more: rates peak / warm_up, 2 peak / warm_up, …, peak.
        peak: the largest rate.
    """
    if step >= steps:
        return 0.0
    if step < warm_up:
        return peak * ((step + 1) / warm_up)  # in this order no rounding exceeds the peak
    return peak * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up))) / 2


def shuffled(samples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the samples in an epoch, (samples,) int64: the same permutation on all ranks.

    Args:
        samples: 0 or more.
        seed: 0 or more; with another one all epochs differ.
        epoch: counted from 0; every epoch has an order of its own.
    """
    return np.random.default_rng((seed, epoch)).permutation(samples)
