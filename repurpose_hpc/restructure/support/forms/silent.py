"""Silent form: nothing is sent, and each worker does with its own neurons (step 3.3)."""

from __future__ import annotations

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.tradeoff import Tradeoff, silent


def silent_tradeoff(problem: MixingProblem, owner: np.ndarray) -> Tradeoff:
    """Error of a mixing that may send nothing, for rows of these owners, (m,); collective."""
    H, own = problem.moments.H, problem.own()

    def error_of(q: int) -> float:
        rows = np.flatnonzero(owner == q)
        if not rows.size:
            return 0.0
        L = problem.metric_root(rows)
        R, best = L @ problem.moments.R[rows], L @ problem.moments.best[rows]
        S = np.flatnonzero(problem.columns(own[q] & problem.linked(rows)))
        explained = solve_triangular(cholesky(H[np.ix_(S, S)], lower=True), R[:, S].T, lower=True)
        return max(float(np.vdot(R, best) - np.vdot(explained, explained)), 0.0)

    return silent(sum(problem.team.map(error_of, range(problem.workers))))
