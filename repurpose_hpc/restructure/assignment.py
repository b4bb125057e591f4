"""Step 2: which worker owns which neuron (Munkres assignment under capacities)."""

from __future__ import annotations

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import linear_sum_assignment

from repurpose_hpc.restructure.statistics import Moments


def residual_costs(moments: Moments, support: np.ndarray) -> np.ndarray:
    """C[i, q] for one worker: error of every row i when only the neurons of its ``support`` may be used.

    That is the Schur complement of the paper's Frobenius cost, v (H_TT − H_TS H_SS⁻¹ H_ST) vᵀ with
    v = Wt[i, T] and T the complement of S, plus what no weights can explain.

    Args:
        moments: of the mixing.
        support: bool, (n,).

    Returns:
        (m,) float64.
    """
    S = np.flatnonzero(support)
    L = cholesky(moments.H[np.ix_(S, S)], lower=True)
    explained = solve_triangular(L, moments.R[:, S].T, lower=True)
    return moments.variance - np.einsum("ji,ji->i", explained, explained)


def assign(costs: np.ndarray, capacities: np.ndarray) -> np.ndarray:
    """The assignment of least total cost: worker q is given at most ``capacities[q]`` rows.

    Munkres' problem with every worker repeated as often as its capacity (arXiv 2008.08289, section 3).

    Args:
        costs: C, (m, P), finite.
        capacities: (P,), summing to at least m.

    Returns:
        owner of each row, (m,) int32.
    """
    workers = np.repeat(np.arange(len(capacities)), capacities)
    rows, chosen = linear_sum_assignment(costs[:, workers])
    owner = np.empty(len(costs), np.int32)
    owner[rows] = workers[chosen]
    return owner


def random_owners(capacities: np.ndarray, neurons: int, rng: np.random.Generator) -> np.ndarray:
    """Owners drawn at random under the capacities, (neurons,) int32."""
    seats = np.repeat(np.arange(len(capacities), dtype=np.int32), capacities)
    return rng.permutation(seats)[:neurons]
