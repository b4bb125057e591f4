"""Step 2: which worker owns which neuron (Munkres assignment under capacities)."""

from __future__ import annotations

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from repurpose_hpc.kernels import least_cost_owners
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

    The optimum of Munkres' problem with every worker repeated as often as its capacity (arXiv 2008.08289,
    section 3), found by shortest augmenting paths on the workers instead of their repetitions
    (``kernels/transport.py``; docs/assignment.md says why).  Memory: 24 bytes for each entry of C.  Time:
    m searches of P² steps, and P log m steps for each row that moves, at most P in a search.
    Exact up to the rounding of sums of costs; the same costs give the same owners.

    Args:
        costs: C, (m, P), finite.
        capacities: (P,) integers, zero or more, summing to at least m.

    Returns:
        owner of each row, (m,) int32.

    Raises:
        ValueError: there are fewer seats than rows, or a cost is not finite.
    """
    if capacities.min(initial=0) < 0 or capacities.sum() < len(costs):
        raise ValueError(f"{len(costs)} rows do not fit into the capacities {capacities}: need as many seats")
    if not np.isfinite(costs).all():
        raise ValueError("the costs of an assignment must be finite, but some are NaN or infinite")
    owner, _ = least_cost_owners(
        np.ascontiguousarray(costs, np.float64), np.ascontiguousarray(capacities, np.int64)
    )
    return owner


def random_owners(capacities: np.ndarray, neurons: int, rng: np.random.Generator) -> np.ndarray:
    """Owners drawn at random under the capacities, (neurons,) int32."""
    seats = np.repeat(np.arange(len(capacities), dtype=np.int32), capacities)
    return rng.permutation(seats)[:neurons]
