"""Steps 4.2 and 4.3: the weights on a fixed mask.

First row by row: the exact least-squares weights of every row on its support.  Then the rows together
(``compensate``): what one worker cannot compute, the others make up for as far as the output sees it.

Where ghosts arrive rounded, the noise N is part of the problem (``calibration.comm_dtype``): it adds
N_ij Ŵ_ij² to the error of row i, so that rows lean less on ghosts that arrive badly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.restructure.calibration.comm_dtype import measure_noise
from repurpose_hpc.restructure.calibration.moments import Moments
from repurpose_hpc.restructure.context import CutContext
from repurpose_hpc.restructure.decisions import Decisions
from repurpose_hpc.restructure.method import DATA, Gram
from repurpose_hpc.restructure.support.elimination import columns, row_groups
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.team import Team

# Weight of staying near the original y, relative to the mean of the metric's diagonal; chosen on
# held-out calibration data, see docs/method.md.
TRUST = 2.0


@dataclass(frozen=True, eq=False)
class RowGroup:
    """Rows that share a support, and its noise.

    Attributes:
        rows: their numbers.
        S: the columns that they may use.
        noise: their entries in a row of N, (|S|,).
        factor: Cholesky factor of H_SS, the noise on its diagonal, as SciPy's ``cho_factor`` gives it.
    """

    rows: np.ndarray
    S: np.ndarray
    noise: np.ndarray
    factor: tuple[np.ndarray, bool]


class Fit(NamedTuple):
    """Adjusted weights of a mixing through which nothing arrives rounded, with the moments of its problem.

    Attributes:
        mask: as of ``adjust``.
        mixing: with the weights.
        by_relays: the weights that read relays, (m, columns of relays); None: there are none.
        combined: what the relays combine; None: there are none.
    """

    mask: np.ndarray
    mixing: Mixing
    by_relays: np.ndarray | None = None
    combined: np.ndarray | None = None

    def is_on(self, mask: np.ndarray, combined: np.ndarray | None = None) -> bool:
        """True if these are the weights on this mask, with relays of these combinations."""
        return np.array_equal(mask, self.mask) and combined is self.combined


def adjust_mixing(
    context: CutContext,
    decisions: Decisions,
    mixing: Mixing,
    problem: MixingProblem,
    mask: np.ndarray,
    fit: Fit | None = None,
) -> Mixing:
    """Final weights and bias of a mixing on its mask; collective.

    Where nothing has been eliminated so far, the original weights are kept bit for bit.

    Args:
        context, decisions: of the run; the mixing is planned.
        mixing: the original.
        problem: it, with the moments that errors were judged by.
        mask: as of ``adjust``.
        fit: of the same problem, which serves if it is the same.
    """
    method = context.method
    if not method.refit or (decisions.exact and np.array_equal(mask, mixing.links)):
        return prune(mixing, mask)
    noise = None
    if context.arrives_rounded(mixing, decisions):
        noise = measure_noise(context.propagation, mixing, context.current(decisions))
    judged_by_what_arrives = method.gram is Gram.MEASURED
    if fit is not None and fit.is_on(mask) and noise is None and judged_by_what_arrives:
        return fit.mixing
    moments = problem.moments if judged_by_what_arrives else context.moments(mixing, decisions)
    root = context.statistics.roots[mixing.name] if method.compensation else None
    return adjust(mixing, moments, mask, root, context.team, noise, method.compensation)


def adjust(
    mixing: Mixing,
    moments: Moments,
    mask: np.ndarray,
    root: np.ndarray | None,
    team: Team,
    noise: np.ndarray | None = None,
    passes: int = DATA.compensation,
) -> Mixing:
    """The best weights and bias on the mask, float64; collective.

    Args:
        mixing: the original.
        moments: of the mixing as it will run.
        mask: the neurons that depend on each other, bool (m, n), or the weights that may be non-zero,
            bool (m, n k).
        root: of the metric, L (k, m) with M = Lᵀ L, for compensation between rows; None: every row by
            itself, at whose result the gradient Ŵ H + N ∘ Ŵ − R is zero on the mask.
        team: shares the work.
        noise: N, (m, n k): what is added to the mean square of each input on its way to each row, the
            same for a column wherever it is not 0; None: nothing.
        passes: over all groups of rows, for compensation.
    """
    mask = _weight_mask(mixing, mask)
    groups = _groups(mask, noise)
    solved = team.map(lambda group: _solve_rows(moments, *group), groups)
    weights = np.zeros(mixing.W.shape)
    for group, solution in solved:
        weights[np.ix_(group.rows, group.S)] = solution
    if root is not None and len(solved) > 1:
        compensate(weights, moments, root, [group for group, _ in solved], passes)
    bias = moments.mean_y - weights @ moments.mean_x
    return replace(mixing, weights=weights, bias=bias)


def compensate(
    weights: np.ndarray, moments: Moments, L: np.ndarray, groups: list[RowGroup], passes: int
) -> None:
    """Lower tr (Ŵ − Wt) H (Ŵ − Wt)ᵀ (M + τ I) over the weights on the mask, in place.

    M, the metric, ties the rows together: an error of one row is made good by others that lead to the same
    outputs.  τ (TRUST) keeps y near the original, where M holds.  Groups of rows are solved for one
    after the other, exactly, so the objective never rises.

    Noise adds tr V D Vᵀ (M + τ I), D its mean squares by column and V the weights that meet it: all that
    receive a neuron receive the same noise.

    Args:
        weights: Ŵ, (m, n k), zero outside the mask.
        moments: of the mixing.
        L: root of the metric, (k, m) with M = Lᵀ L.
        groups: all rows.
        passes: over the groups; later ones change little.
    """
    H, R = moments.H, moments.R
    tau = times_mean(TRUST, L)
    if not tau:
        return
    # What the outputs still lack, correlated with every input, and the noise in them of every input.
    lack, noisy = R.copy(), np.zeros((len(L), len(H)))
    for group in groups:
        block = weights[np.ix_(group.rows, group.S)]
        lack[group.rows] -= block @ H[group.S]
        noisy[:, group.S] += (L[:, group.rows] @ block) * group.noise
    lack = L @ lack
    for _ in range(passes):
        for group in groups:
            rows, S = group.rows, group.S
            L_rows, block = L[:, rows], np.ix_(rows, S)
            own_lack = R[block] - weights[block] @ H[np.ix_(S, S)] - weights[block] * group.noise
            felt = lack[:, S] - np.where(group.noise > 0, noisy[:, S], 0)
            pull = np.linalg.solve(
                L_rows.T @ L_rows + tau * np.eye(len(rows)), L_rows.T @ felt + tau * own_lack
            )
            change = cho_solve(group.factor, pull.T).T
            weights[block] += change
            # In the order that takes least: rows may be few, or the rank of the metric.
            lack -= np.linalg.multi_dot([L_rows, change, H[S]])
            noisy[:, S] += L_rows @ change * group.noise


def times_mean(trust: float, L: np.ndarray) -> float:
    """τ, so many times the mean of the diagonal of M = Lᵀ L, L of shape (k, m)."""
    return trust * float(np.vdot(L, L)) / L.shape[1]


def prune(mixing: Mixing, mask: np.ndarray) -> Mixing:
    """The original weights on the mask, as of ``adjust``, zero elsewhere; nothing is adjusted."""
    return replace(mixing, weights=np.where(_weight_mask(mixing, mask), mixing.W, 0))


def _weight_mask(mixing: Mixing, mask: np.ndarray) -> np.ndarray:
    """The mask of weights, bool (m, n k), that a mask of neurons or of weights stands for."""
    return columns(mask, mixing.W.shape[1] // mask.shape[1])


def _groups(mask: np.ndarray, noise: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Groups of rows with one mask and one noise: their numbers, columns, and noise of these."""
    if noise is None:
        return [(rows, S, np.zeros(len(S))) for rows, S in row_groups(mask)]
    joint_groups = row_groups(np.hstack([mask, mask & (noise > 0)]))
    supports = [(rows, joint_columns[joint_columns < mask.shape[1]]) for rows, joint_columns in joint_groups]
    return [(rows, S, noise[rows[0], S]) for rows, S in supports]


def _solve_rows(
    moments: Moments, rows: np.ndarray, S: np.ndarray, noise: np.ndarray
) -> tuple[RowGroup, np.ndarray]:
    H = moments.H[np.ix_(S, S)]
    H[np.diag_indices_from(H)] += noise
    factor = cho_factor(H, lower=True)
    return RowGroup(rows, S, noise, factor), cho_solve(factor, moments.R[np.ix_(rows, S)].T).T
