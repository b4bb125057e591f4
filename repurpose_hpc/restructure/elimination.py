"""Step 3: which ghost neurons a worker does without (ℓ0 group elimination).

All rows of a worker share its support, so a ghost neuron is a group: the worker's rows of one
column.  Removing group j from a least-squares fit and refitting the others raises the error by

    Δ_j = |V_j|² / [H⁻¹]_jj        (optimal brain surgeon, for a group of rows)

with V the current weights and H⁻¹ the inverse Gram matrix of what remains; both are downdated
after every removal, so correlated neurons stand in for each other.  Errors are measured in the
metric of the mixing: rows are multiplied by a square root of it first.
"""

from __future__ import annotations

from collections.abc import Callable

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


def select_candidates(
    H: np.ndarray, R: np.ndarray, own: np.ndarray, costs: np.ndarray, count: int
) -> np.ndarray:
    """The ``count`` neurons that, added one at a time, each lower the error most for their cost.

    Forward selection (orthogonal least squares), a panel at a time.  It keeps elimination affordable
    where nearly everything is to go: elimination starts from these instead of from all ghosts.

    Args:
        H: (n, n), positive definite.
        R: (k, n), rows in the metric's root.
        own: bool, (n,): neurons that are there from the start.
        costs: of sending each neuron, (n,), > 0.
        count: at most the number of other neurons.

    Returns:
        (count,) neurons, best first.
    """
    S = np.flatnonzero(own)
    # Z: an orthonormal basis of the span of the chosen inputs, seen from every input; it grows by a
    # row for each neuron taken.  What it does not explain: the correlation with the rows and the variance.
    Z = np.empty((len(S) + count, len(H)))
    L = cholesky(H[np.ix_(S, S)], lower=True)
    Z[: len(S)] = solve_triangular(L, H[S], lower=True)
    correlation = R - solve_triangular(L, R[:, S].T, lower=True).T @ Z[: len(S)]
    variance = np.diag(H) - np.einsum("ij,ij->j", Z[: len(S)], Z[: len(S)])
    available, chosen = ~own, np.empty(0, np.int64)
    while len(chosen) < count:
        basis = Z[: len(S) + len(chosen)]
        wanted = min(-(-count // PANEL_FRACTION), count - len(chosen))
        gains = np.einsum("ij,ij->j", correlation, correlation) / np.where(available, variance * costs, 1.0)
        panel = np.argsort(np.where(available, -gains, np.inf), kind="stable")[: 2 * wanted]
        panel = panel[available[panel]]
        gram = H[np.ix_(panel, panel)] - basis[:, panel].T @ basis[:, panel]
        order, _ = _greedy(
            gram, correlation[:, panel].T @ correlation[:, panel], costs[panel], wanted, np.argmax
        )
        taken = panel[order]
        L = cholesky(gram[np.ix_(order, order)], lower=True)
        z = solve_triangular(L, H[taken] - basis[:, taken].T @ basis, lower=True)
        correlation -= solve_triangular(L, correlation[:, taken].T, lower=True).T @ z
        variance -= np.einsum("ij,ij->j", z, z)
        Z[len(basis) : len(basis) + len(taken)] = z
        available[taken] = False
        chosen = np.concatenate([chosen, taken])
    return chosen


def eliminate(
    H: np.ndarray, R: np.ndarray, own: np.ndarray, costs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Remove all ghosts, the least useful for its cost first, and record what each removal costs.

    Args:
        H: (n, n), positive definite, of the worker's own neurons and ghosts.
        R: (k, n), rows in the metric's root.
        own: bool, (n,): neurons that stay.
        costs: of sending each neuron, (n,), > 0.

    Returns:
        the ghosts in the order of removal, (g,) positions; the rise of the error at each removal, (g,).
    """
    Hinv = np.linalg.inv(H)
    V = R @ Hinv
    position, ghost = np.arange(len(H)), ~own
    order, rises = [np.empty(0, np.int64)], [np.empty(0)]
    while ghost.any():
        removed, rise = _eliminate_panel(Hinv, V, ghost, costs[position])
        order.append(position[removed])
        rises.append(rise)
        keep = np.ones(len(position), bool)
        keep[removed] = False
        downdate = np.linalg.solve(Hinv[np.ix_(removed, removed)], Hinv[np.ix_(removed, keep)])
        V = V[:, keep] - V[:, removed] @ downdate
        Hinv = Hinv[np.ix_(keep, keep)] - Hinv[np.ix_(keep, removed)] @ downdate
        position, ghost = position[keep], ghost[keep]
    return np.concatenate(order), np.concatenate(rises)


def _eliminate_panel(
    Hinv: np.ndarray, V: np.ndarray, ghost: np.ndarray, costs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Remove some of the cheapest ghosts greedily, with exact downdates among twice as many candidates."""
    ghosts = np.flatnonzero(ghost)
    count = -(-len(ghosts) // PANEL_FRACTION)
    scores = np.einsum("ij,ij->j", V[:, ghosts], V[:, ghosts]) / (np.diag(Hinv) * costs)[ghosts]
    panel = ghosts[np.argsort(scores, kind="stable")[: 2 * count]]
    inverse, products = Hinv[np.ix_(panel, panel)], V[:, panel].T @ V[:, panel]
    order, rises = _greedy(inverse, products, costs[panel], count, np.argmin)
    return panel[order], rises


def _greedy(
    matrix: np.ndarray,
    products: np.ndarray,
    costs: np.ndarray,
    count: int,
    best: Callable[[np.ndarray], int],
) -> tuple[np.ndarray, np.ndarray]:
    """Take ``count`` of a panel one at a time, with exact downdates.

    What is taken changes the error by products_jj / matrix_jj; each time the one with the ``best`` change
    for its cost is.

    Args:
        matrix: (p, p), the inverse Gram matrix (to remove) or the Gram matrix (to add).
        products: (p, p), of the rows' weights or correlations.
        costs: (p,), > 0.
        count: at most p.
        best: ``np.argmin`` or ``np.argmax``.

    Returns:
        the positions taken, in order, and their changes, (count,) each.
    """
    # Changes are never negative: this loses against everything.
    loser = np.inf if best is np.argmin else -1.0
    alive, taken, changes = np.ones(len(matrix), bool), [], []
    for _ in range(count):
        delta = np.diag(products) / np.where(alive, np.diag(matrix), 1.0)
        j = int(best(np.where(alive, delta / costs, loser)))
        taken.append(j)
        changes.append(delta[j])
        alive[j] = False
        factor = matrix[j] / matrix[j, j]
        along = np.outer(factor, products[j])
        products = products - along - along.T + products[j, j] * np.outer(factor, factor)
        matrix = matrix - np.outer(factor, matrix[j])
    return np.array(taken), np.array(changes)
