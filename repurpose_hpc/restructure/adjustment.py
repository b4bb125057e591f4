"""Step 4: the weights on a fixed mask.

First every row by itself: the exact least-squares weights on its support.  Then the rows together
(``compensate``): what one worker cannot compute, the others make up for as far as the output sees it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.restructure.elimination import columns
from repurpose_hpc.restructure.statistics import Moments
from repurpose_hpc.restructure.team import Team

# Weight of staying near the original y, relative to the mean of the metric's diagonal; chosen on
# held-out calibration data, see docs/method.md.
TRUST = 2.0
# Passes over all workers; later ones change little.
SWEEPS = 2


@dataclass(frozen=True, eq=False)
class RowGroup:
    """Rows that share a support.

    Attributes:
        rows: their numbers.
        S: the columns that they may use.
        factor: Cholesky factor of H_SS as SciPy's ``cho_factor`` gives it.
    """

    rows: np.ndarray
    S: np.ndarray
    factor: tuple[np.ndarray, bool]


def row_groups(mask: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of ``mask``, bool (m, n), that are alike: (rows, columns that they may use, at least one)."""
    # Packed, since sorting rows takes time for each of their bytes.
    packed = np.packbits(mask, axis=1)
    _, first, group = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    group = group.ravel()
    return [
        (np.flatnonzero(group == number), np.flatnonzero(mask[row]))
        for number, row in enumerate(first)
        if mask[row].any()
    ]


def adjust(mixing: Mixing, moments: Moments, mask: np.ndarray, root: np.ndarray | None, team: Team) -> Mixing:
    """The best weights and bias on the mask, float64; collective.

    Args:
        mixing: the original.
        moments: of the mixing as it will run.
        mask: which neurons depend on which, bool (m, n), or which weights may be non-zero, bool (m, n k).
        root: of the metric, L (k, m) with M = Lᵀ L, for compensation between rows; None: every row by
            itself, at whose result the gradient Ŵ H − R is zero on the mask.
        team: shares the work.
    """
    groups = row_groups(_weight_mask(mixing, mask))
    solved = team.map(lambda group: _solve_rows(moments, *group), groups)
    weights = np.zeros(mixing.weights.shape)
    for group, solution in solved:
        weights[np.ix_(group.rows, group.S)] = solution
    if root is not None and len(solved) > 1:
        compensate(weights, moments, root, [group for group, _ in solved])
    bias = moments.mean_y - weights @ moments.mean_x
    return replace(mixing, weights=weights, bias=bias)


def compensate(weights: np.ndarray, moments: Moments, L: np.ndarray, groups: list[RowGroup]) -> None:
    """Lower tr (Ŵ − Wt) H (Ŵ − Wt)ᵀ (M + τ I) over the weights on the mask, in place.

    M, the metric, ties the rows together: an error of one row is made good by others that lead to the same
    outputs.  τ (TRUST) keeps y near the original, where M holds.  Groups of rows are solved for one
    after the other, exactly, so the objective never rises.

    Args:
        weights: Ŵ, (m, n k), zero outside the mask.
        moments: of the mixing.
        L: root of the metric, (k, m) with M = Lᵀ L.
        groups: all rows.
    """
    H, R = moments.H, moments.R
    tau = TRUST * np.vdot(L, L) / L.shape[1]
    if not tau:
        return
    # What the outputs still lack, correlated with every input.
    lack = L @ (R - weights @ H)
    for _ in range(SWEEPS):
        for group in groups:
            rows, S = group.rows, group.S
            L_rows, here = L[:, rows], np.ix_(rows, S)
            own_lack = R[here] - weights[here] @ H[np.ix_(S, S)]
            wanted = np.linalg.solve(
                L_rows.T @ L_rows + tau * np.eye(len(rows)), L_rows.T @ lack[:, S] + tau * own_lack
            )
            change = cho_solve(group.factor, wanted.T).T
            weights[here] += change
            lack -= (L_rows @ change) @ H[S]


def prune(mixing: Mixing, mask: np.ndarray) -> Mixing:
    """The original weights on the mask, as of ``adjust``, zero elsewhere; nothing is adjusted."""
    return replace(mixing, weights=np.where(_weight_mask(mixing, mask), mixing.weights, 0))


def _weight_mask(mixing: Mixing, mask: np.ndarray) -> np.ndarray:
    """A mask of neurons or of weights as one of weights, bool (m, n k)."""
    return columns(mask, mixing.weights.shape[1] // mask.shape[1])


def _solve_rows(moments: Moments, rows: np.ndarray, S: np.ndarray) -> tuple[RowGroup, np.ndarray]:
    factor = cho_factor(moments.H[np.ix_(S, S)], lower=True)
    return RowGroup(rows, S, factor), cho_solve(factor, moments.R[np.ix_(rows, S)].T).T
