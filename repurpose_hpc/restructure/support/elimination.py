"""Step 3.2: the order in which a worker does without its ghost neurons (ℓ0 group elimination).

All rows of a worker share its support, so a ghost neuron is a group: the worker's rows of its k columns
(``taps``; 1 between vectors).  Removing group j from a least-squares fit and refitting the others
raises the error by

    Δ_j = tr V_j ([H⁻¹]_jj)⁻¹ V_jᵀ        (optimal brain surgeon, for a group of rows and columns)

with V the current weights and H⁻¹ the inverse Gram matrix of what remains; both are downdated
after every removal, so correlated neurons stand in for each other.  Errors are measured in the
metric of the mixing: rows are multiplied by a square root of it first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import cho_factor, cholesky, solve_triangular
from scipy.linalg.lapack import dpotri

from repurpose_hpc.model.weights import column_numbers

# Eigenvalues of a metric that together make up less than this share of its trace are dropped.
METRIC_TOLERANCE = 1e-2
# At most one ghost in so many is removed between two exact downdates of everything.
PANEL_FRACTION = 16


def metric_root(metric: np.ndarray, tolerance: float = METRIC_TOLERANCE) -> np.ndarray:
    """L, (k, r) with k <= r, such that Lᵀ L is ``metric`` (r, r) up to a share of its trace."""
    eigenvalues, vectors = np.linalg.eigh(metric)
    eigenvalues = np.maximum(eigenvalues, 0)
    dropped = np.cumsum(eigenvalues) <= tolerance * eigenvalues.sum()
    return (vectors[:, ~dropped] * np.sqrt(eigenvalues[~dropped])).T


def columns(mask: np.ndarray, taps: int) -> np.ndarray:
    """A mask of neurons, (..., n), as one of their columns, (..., n k)."""
    return np.repeat(mask, taps, axis=-1)


def row_groups(mask: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Groups of equal rows of ``mask``, bool (m, n): (rows, columns that they may use); no empty rows."""
    # Packed, since sorting rows takes time for each of their bytes.
    packed = np.packbits(mask, axis=1)
    _, first, group = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    group = group.ravel()
    return [
        (np.flatnonzero(group == number), np.flatnonzero(mask[row]))
        for number, row in enumerate(first)
        if mask[row].any()
    ]


def block_grams(a: np.ndarray, b: np.ndarray, taps: int) -> np.ndarray:
    """A_jᵀ B_j of the columns of every neuron j of a and b, both (r, n k): (n, k, k)."""
    if taps == 1:
        return np.einsum("ij,ij->j", a, b)[:, None, None]
    a, b = a.reshape(len(a), a.shape[1] // taps, taps), b.reshape(len(b), b.shape[1] // taps, taps)
    return a.transpose(1, 2, 0) @ b.transpose(1, 0, 2)


def diagonal_blocks(matrix: np.ndarray, taps: int) -> np.ndarray:
    """The diagonal blocks of a matrix (n k, n k), one for every neuron: (n, k, k)."""
    neurons = np.arange(len(matrix) // taps)
    return matrix.reshape(len(neurons), taps, len(neurons), taps)[neurons, :, neurons]


def block_changes(matrix: np.ndarray, products: np.ndarray) -> np.ndarray:
    """tr matrix_j⁻¹ products_j: the change of the error when group j is taken, (g,).

    Args:
        matrix: (g, k, k), positive definite: of the inverse Gram matrix to remove, of the Gram matrix to add.
        products: (g, k, k), of the rows' weights or correlations.
    """
    if matrix.shape[1] == 1:
        return products[:, 0, 0] / matrix[:, 0, 0]
    return np.einsum("jss->j", np.linalg.solve(matrix, products))


def select_candidates(
    H: np.ndarray, R: np.ndarray, own: np.ndarray, costs: np.ndarray, count: int, taps: int = 1
) -> np.ndarray:
    """Select ``count`` neurons one at a time, each the one that lowers the error most for its cost.

    Forward selection (orthogonal least squares), a panel at a time.  It keeps elimination affordable
    where nearly everything is to go: elimination starts from these instead of from all ghosts.

    Args:
        H: (n k, n k), positive definite.
        R: (r, n k), rows in the metric's root.
        own: bool, (n,): neurons that are there from the start.
        costs: of sending each neuron, (n,), > 0.
        count: at most the number of other neurons.
        taps: k, columns of each neuron.

    Returns:
        (count,) neurons, best first.
    """
    selection = _Selection(H, R, np.flatnonzero(columns(own, taps)), count * taps, taps)
    available, chosen = ~own, np.empty(0, np.int64)
    while len(chosen) < count:
        batch = min(-(-count // PANEL_FRACTION), count - len(chosen))
        candidates = np.flatnonzero(available)
        ranking = np.argsort(-selection.gains(candidates, costs[candidates]), kind="stable")
        panel = candidates[ranking[: 2 * batch]]
        neurons = selection.extend(panel, costs[panel], batch)
        available[neurons] = False
        chosen = np.concatenate([chosen, neurons])
    return chosen


class Residual:
    """What some inputs leave of all others, and of rows: the Gram-Schmidt process on moments.

    Args:
        H, R: as of ``select_candidates``.
        S: columns that are there from the start.
        further: inputs that may be added.

    Attributes:
        H: as given.
        explained: of the rows by S, (|S|, r): its square is the error that S avoids.
        correlation: of the rows with every input, beyond the basis, (r, n k).
    """

    def __init__(self, H: np.ndarray, R: np.ndarray, S: np.ndarray, further: int) -> None:
        self.H, self._Z, self._size = H, np.empty((len(S) + further, len(H))), len(S)
        L = cholesky(H[np.ix_(S, S)], lower=True)
        self._Z[: len(S)] = solve_triangular(L, H[S], lower=True)
        self.explained = solve_triangular(L, R[:, S].T, lower=True)
        self.correlation = R - self.explained.T @ self.basis

    @property
    def basis(self) -> np.ndarray:
        """Orthonormal, of the span of the inputs so far, seen from every input: (columns, n k)."""
        return self._Z[: self._size]

    def combine(self, combinations: np.ndarray) -> None:
        """Look at combinations of the rows instead of these, (c, r)."""
        self.correlation = combinations @ self.correlation

    def add(self, gram: np.ndarray, seen: np.ndarray, products: np.ndarray) -> np.ndarray:
        """Add inputs; what they add to the basis, (c, n k).

        Args:
            gram: of the inputs, beyond the basis, (c, c).
            seen: the same with every input, (c, n k).
            products: of the rows with the inputs, beyond the basis, (r, c).
        """
        L = cholesky(gram, lower=True)
        z = solve_triangular(L, seen, lower=True)
        self.correlation -= solve_triangular(L, products.T, lower=True).T @ z
        self._Z[self._size : self._size + len(z)] = z
        self._size += len(z)
        return z


class _Selection:
    """The inputs selected so far, and what they leave unexplained.

    Args:
        H, R, taps: as of ``select_candidates``.
        S: columns that are there from the start.
        further: columns that may be added.

    Attributes:
        residual: of the other inputs, and of the rows.
        variance: of the columns of every neuron, beyond the basis, (n, k, k).
    """

    def __init__(self, H: np.ndarray, R: np.ndarray, S: np.ndarray, further: int, taps: int) -> None:
        self.residual, self.taps = Residual(H, R, S, further), taps
        basis = self.residual.basis
        self.variance = diagonal_blocks(H, taps) - block_grams(basis, basis, taps)

    def gains(self, neurons: np.ndarray, costs: np.ndarray) -> np.ndarray:
        """Fall of the error with each of ``neurons`` alone, for its cost, (count,)."""
        correlation = self.residual.correlation
        products = block_grams(correlation, correlation, self.taps)[neurons]
        return block_changes(self.variance[neurons] * costs[:, None, None], products)

    def extend(self, panel: np.ndarray, costs: np.ndarray, count: int) -> np.ndarray:
        """Select ``count`` neurons of a panel, one at a time; returns them, best first."""
        H, basis, correlation = self.residual.H, self.residual.basis, self.residual.correlation
        panel_columns = column_numbers(panel, self.taps)
        gram = H[np.ix_(panel_columns, panel_columns)] - basis[:, panel_columns].T @ basis[:, panel_columns]
        products = correlation[:, panel_columns].T @ correlation[:, panel_columns]
        order, _ = take(gram, products, costs, count, np.argmax)
        places = column_numbers(order, self.taps)
        S = panel_columns[places]
        seen = H[S] - basis[:, S].T @ basis
        z = self.residual.add(gram[np.ix_(places, places)], seen, correlation[:, S])
        self.variance -= block_grams(z, z, self.taps)
        return panel[order]


def inverse(H: np.ndarray) -> np.ndarray:
    """H⁻¹ of a positive definite matrix, by Cholesky: half the work of what ``np.linalg.inv`` does."""
    factor, _ = cho_factor(H, lower=True)
    lower, _ = dpotri(factor, lower=True, overwrite_c=True)
    lower = np.tril(lower)
    return lower + np.tril(lower, -1).T


def eliminate(
    Hinv: np.ndarray, V: np.ndarray, own: np.ndarray, costs: np.ndarray, taps: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Remove all ghosts, the least useful for its cost first, and record what each removal costs.

    Args:
        Hinv: H⁻¹, (n k, n k), of the worker's own neurons and ghosts.
        V: R H⁻¹, (r, n k), the best weights of rows in the metric's root.
        own: bool, (n,): neurons that stay.
        costs: of sending each neuron, (n,), > 0.
        taps: k, columns of each neuron.

    Returns:
        the ghosts in the order of removal, (g,) positions; the rise of the error at each removal, (g,).
    """
    position, ghost = np.arange(len(own)), ~own
    order, rises = [np.empty(0, np.int64)], [np.empty(0)]
    while ghost.any():
        removed, rise = _eliminate_panel(Hinv, V, ghost, costs[position], taps)
        order.append(position[removed])
        rises.append(rise)
        keep = np.ones(len(position), bool)
        keep[removed] = False
        position, ghost = position[keep], ghost[keep]
        removed, keep = column_numbers(removed, taps), columns(keep, taps)
        downdate = np.linalg.solve(Hinv[np.ix_(removed, removed)], Hinv[np.ix_(removed, keep)])
        V = V[:, keep] - V[:, removed] @ downdate
        Hinv = Hinv[np.ix_(keep, keep)] - Hinv[np.ix_(keep, removed)] @ downdate
    return np.concatenate(order), np.concatenate(rises)


def _eliminate_panel(
    Hinv: np.ndarray, V: np.ndarray, ghost: np.ndarray, costs: np.ndarray, taps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Remove some of the cheapest ghosts greedily, with exact downdates among twice as many candidates."""
    ghosts = np.flatnonzero(ghost)
    count = -(-len(ghosts) // PANEL_FRACTION)
    matrix, weights = diagonal_blocks(Hinv, taps)[ghosts], V[:, columns(ghost, taps)]
    scores = block_changes(matrix * costs[ghosts, None, None], block_grams(weights, weights, taps))
    panel = ghosts[np.argsort(scores, kind="stable")[: 2 * count]]
    panel_columns = column_numbers(panel, taps)
    inverse, products = (
        Hinv[np.ix_(panel_columns, panel_columns)],
        V[:, panel_columns].T @ V[:, panel_columns],
    )
    order, rises = take(inverse, products, costs[panel], count, np.argmin)
    return panel[order], rises


def take(
    matrix: np.ndarray,
    products: np.ndarray,
    costs: np.ndarray,
    count: int,
    choose: Callable[[np.ndarray], int],
) -> tuple[np.ndarray, np.ndarray]:
    """Take ``count`` of a panel one at a time, with exact downdates.

    Taking group j changes the error by tr (matrix_jj)⁻¹ products_jj.  ``choose`` picks the group from the
    changes over the costs.

    Args:
        matrix: (p k, p k), the inverse Gram matrix (to remove) or the Gram matrix (to add).
        products: (p k, p k), of the rows' weights or correlations.
        costs: (p,), > 0.
        count: at most p.
        choose: ``np.argmin`` or ``np.argmax``.

    Returns:
        the positions taken, in order, and their changes, (count,) each.
    """
    taps = len(matrix) // len(costs)
    remaining, order, changes = np.arange(len(costs)), [], []
    for _ in range(count):
        delta = block_changes(
            diagonal_blocks(matrix, taps)[remaining], diagonal_blocks(products, taps)[remaining]
        )
        place = int(choose(delta / costs[remaining]))
        j = remaining[place]
        order.append(j)
        changes.append(delta[place])
        remaining = np.delete(remaining, place)
        group = slice(j * taps, (j + 1) * taps)
        factor = _divided_by(matrix[group, group], matrix[group])
        along = factor.T @ products[group]
        products = products - along - along.T + factor.T @ (products[group, group] @ factor)
        matrix = matrix - factor.T @ matrix[group]
    return np.array(order), np.array(changes)


def _divided_by(matrix: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """matrix⁻¹ rows: (k, k) and (k, c)."""
    return rows / matrix if len(matrix) == 1 else np.linalg.solve(matrix, rows)
