"""Step 3: which ghost neurons a worker does without (ℓ0 group elimination).

All rows of a worker share its support, so a ghost neuron is a group: the worker's rows of one
column.  Removing group j from a least-squares fit and refitting the others raises the error by

    Δ_j = |V_j|² / [H⁻¹]_jj        (optimal brain surgeon, for a group of rows)

with V the current weights and H⁻¹ the inverse Gram matrix of what remains; both are downdated
after every removal, so correlated neurons stand in for each other.  Errors are measured in the
metric of the mixing: rows are multiplied by a square root of it first.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cholesky, solve_triangular

# Eigenvalues of a metric that together make up less than this share of its trace are dropped.
METRIC_TOLERANCE = 1e-2
# At most one ghost in so many is removed between two exact downdates of everything.
PANEL_FRACTION = 16


def metric_root(metric: np.ndarray) -> np.ndarray:
    """L, (k, r) with k <= r, such that Lᵀ L is ``metric`` (r, r) up to METRIC_TOLERANCE of its trace."""
    eigenvalues, vectors = np.linalg.eigh(metric)
    eigenvalues = np.maximum(eigenvalues, 0)
    dropped = np.cumsum(eigenvalues) <= METRIC_TOLERANCE * eigenvalues.sum()
    return (vectors[:, ~dropped] * np.sqrt(eigenvalues[~dropped])).T


def select_candidates(H: np.ndarray, R: np.ndarray, own: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` neurons that, added one at a time, each lower the error most.

    Forward selection (orthogonal least squares).  It keeps elimination affordable where nearly
    everything is to go: elimination starts from these instead of from all ghosts.

    Args:
        H: (n, n), positive definite.
        R: (k, n), rows in the metric's root.
        own: bool, (n,): neurons that are there from the start.
        count: at most the number of other neurons.

    Returns:
        (count,) neurons, best first.
    """
    n, S = len(H), np.flatnonzero(own)
    # Z: an orthonormal basis of the span of the chosen inputs, seen from every input.
    # T: the coordinates of the rows in it.  Both grow by one row for each neuron taken.
    Z, T = np.empty((len(S) + count, n)), np.empty((len(S) + count, len(R)))
    L = cholesky(H[np.ix_(S, S)], lower=True)
    Z[: len(S)] = solve_triangular(L, H[S], lower=True)
    T[: len(S)] = solve_triangular(L, R[:, S].T, lower=True)
    correlation = R - T[: len(S)].T @ Z[: len(S)]
    gain = np.einsum("ij,ij->j", correlation, correlation)
    variance = np.diag(H) - np.einsum("ij,ij->j", Z[: len(S)], Z[: len(S)])
    available, chosen = ~own, np.empty(count, np.int64)
    for k in range(count):
        size = len(S) + k
        score = np.where(available, gain, -1.0) / np.where(available, variance, 1.0)
        j = chosen[k] = int(score.argmax())
        available[j] = False
        scale = 1 / np.sqrt(variance[j])
        t = scale * (R[:, j] - Z[:size, j] @ T[:size])
        along, shared = np.stack([Z[:size, j], T[:size] @ t]) @ Z[:size]
        z = scale * (H[j] - along)
        gain += z * (z * (t @ t) - 2 * (t @ R - shared))
        variance -= z * z
        Z[size], T[size] = z, t
    return chosen


def eliminate(H: np.ndarray, R: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Remove all ghosts, the least useful first, and record what each removal costs.

    Args:
        H: (n, n), positive definite, of the worker's own neurons and ghosts.
        R: (k, n), rows in the metric's root.
        own: bool, (n,): neurons that stay.

    Returns:
        the ghosts in the order of removal, (g,) positions; the rise of the error at each removal, (g,).
    """
    Hinv = np.linalg.inv(H)
    V = R @ Hinv
    position, ghost = np.arange(len(H)), ~own
    order, costs = [np.empty(0, np.int64)], [np.empty(0)]
    while ghost.any():
        removed, cost = _eliminate_panel(Hinv, V, ghost)
        order.append(position[removed])
        costs.append(cost)
        keep = np.ones(len(position), bool)
        keep[removed] = False
        downdate = np.linalg.solve(Hinv[np.ix_(removed, removed)], Hinv[np.ix_(removed, keep)])
        V = V[:, keep] - V[:, removed] @ downdate
        Hinv = Hinv[np.ix_(keep, keep)] - Hinv[np.ix_(keep, removed)] @ downdate
        position, ghost = position[keep], ghost[keep]
    return np.concatenate(order), np.concatenate(costs)


def _eliminate_panel(Hinv: np.ndarray, V: np.ndarray, ghost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Remove some of the cheapest ghosts greedily, with exact downdates among twice as many candidates."""
    ghosts = np.flatnonzero(ghost)
    count = -(-len(ghosts) // PANEL_FRACTION)
    scores = np.einsum("ij,ij->j", V[:, ghosts], V[:, ghosts]) / np.diag(Hinv)[ghosts]
    panel = ghosts[np.argsort(scores, kind="stable")[: 2 * count]]
    inverse, products = Hinv[np.ix_(panel, panel)], V[:, panel].T @ V[:, panel]
    alive, removed, costs = np.ones(len(panel), bool), [], []
    for _ in range(count):
        delta = np.where(alive, np.diag(products), np.inf) / np.where(alive, np.diag(inverse), 1.0)
        j = int(delta.argmin())
        removed.append(panel[j])
        costs.append(delta[j])
        alive[j] = False
        factor = inverse[j] / inverse[j, j]
        along = np.outer(factor, products[j])
        products = products - along - along.T + products[j, j] * np.outer(factor, factor)
        inverse = inverse - np.outer(factor, inverse[j])
    return np.array(removed), np.array(costs)
