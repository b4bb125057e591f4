"""Step 2.1: owners of rows (Munkres assignment under capacities)."""

from __future__ import annotations

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from repurpose_hpc.kernels import least_cost_owners
from repurpose_hpc.restructure.calibration.moments import Moments


def residual_costs(moments: Moments, support: np.ndarray) -> np.ndarray:
    """C[i, q] for one worker q: error of every row i restricted to the neurons of its ``support``.

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
    (``kernels/assignment``; docs/assignment.md says why).  Memory: 24 bytes for each entry of C.  Time:
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


def assign_groups(costs: np.ndarray, capacities: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """``assign``, with the neurons of a group at one worker, or few, as far as the capacities allow.

    Groups too large for any worker are cut into equal pieces.  Pieces are seated whole, at least total cost;
    those for which no worker has that many seats left are seated neuron by neuron.

    Args:
        costs, capacities: as of ``assign``.
        groups: the group of every row, (m,) integers.

    Returns:
        owner of each row, (m,) int32.
    """
    pieces = _pieces(groups, int(capacities.max()))
    seats = capacities // np.bincount(pieces).max()
    totals = np.zeros((pieces.max() + 1, costs.shape[1]))
    np.add.at(totals, pieces, costs)
    # A further worker, no better and no worse than the others, has room for all that are not seated whole.
    table = np.hstack([totals, totals.mean(axis=1, keepdims=True)])
    unseated = max(len(totals) - int(seats.sum()), 0)
    owner = assign(table, np.append(seats, unseated))[pieces]
    unseated_rows = owner == costs.shape[1]
    seats_left = capacities - np.bincount(owner[~unseated_rows], minlength=len(capacities))
    owner[unseated_rows] = assign(costs[unseated_rows], seats_left)
    return owner


def _pieces(groups: np.ndarray, largest: int) -> np.ndarray:
    """Numbers from 0 of the groups, those of more than ``largest`` rows cut into equal pieces: (m,)."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    place = np.empty(len(groups), np.int64)  # of every row in its group
    place[order] = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    counts = -(-sizes // largest)
    chunks = -(-sizes // counts)
    return (np.cumsum(counts) - counts)[group] + place // chunks[group]


def random_owners(capacities: np.ndarray, neurons: int, rng: np.random.Generator) -> np.ndarray:
    """Owners drawn at random under the capacities, (neurons,) int32."""
    seats = np.repeat(np.arange(len(capacities), dtype=np.int32), capacities)
    return rng.permutation(seats)[:neurons]
