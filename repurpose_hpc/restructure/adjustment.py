"""Step 4: the weights on a fixed support."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from repurpose_hpc.model.network import Mixing
from repurpose_hpc.plan.plan import MixingPlan, allowed
from repurpose_hpc.restructure.statistics import Moments


def row_groups(
    plan: MixingPlan, source_owner: np.ndarray, target_owner: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows that share a support: (rows, columns that they may use)."""
    supports = allowed(plan, source_owner, target_owner)
    # Packed, since sorting rows takes time for each of their bytes.
    packed = np.packbits(supports, axis=1)
    _, first, group = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    for number, support in enumerate(supports[first]):
        yield np.flatnonzero(group.ravel() == number), np.flatnonzero(support)


def adjust(
    mixing: Mixing, moments: Moments, plan: MixingPlan, source_owner: np.ndarray, target_owner: np.ndarray
) -> Mixing:
    """The exact least-squares weights and bias on the support, float64.

    At the result the gradient Ŵ H − R is zero on the support.
    """
    weights = np.zeros(mixing.weights.shape)
    for rows, S in row_groups(plan, source_owner, target_owner):
        if S.size:
            factor = cho_factor(moments.H[np.ix_(S, S)])
            weights[np.ix_(rows, S)] = cho_solve(factor, moments.R[np.ix_(rows, S)].T).T
    bias = moments.mean_y - weights @ moments.mean_x
    return Mixing(mixing.name, mixing.source, mixing.target, weights, bias)


def prune(mixing: Mixing, plan: MixingPlan, source_owner: np.ndarray, target_owner: np.ndarray) -> Mixing:
    """The original weights on the support, zero elsewhere; nothing is adjusted."""
    weights = np.zeros_like(mixing.weights)
    for rows, S in row_groups(plan, source_owner, target_owner):
        weights[np.ix_(rows, S)] = mixing.weights[np.ix_(rows, S)]
    return Mixing(mixing.name, mixing.source, mixing.target, weights, mixing.bias)
