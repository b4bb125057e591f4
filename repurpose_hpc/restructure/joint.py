"""Step 3.7: what one worker should be sent, with what all others lack and make up for in view.

Steps 3.2 to 3.6 look at one worker at a time.  Once weights are adjusted, the rows of the others are known.
In the error that step 4.3 lowers,

    tr (Ŵ − Wt) H (Ŵ − Wt)ᵀ (M + τ I),

the rows of worker q are then a problem of least squares by themselves: with the metric M_qq + τ I, and with
targets that make up for what the others lack.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from repurpose_hpc.restructure.adjustment import times_mean
from repurpose_hpc.restructure.support.problem import MixingProblem

# τ relative to the mean of the metric's diagonal: less than TRUST of the adjustment, which would have values
# spent on errors that the output does not see; chosen on held-out calibration data, see docs/method.md.
SELECTION_TRUST = 0.03


def joint_problem(
    problem: MixingProblem, weights: np.ndarray, L: np.ndarray, owner: np.ndarray
) -> MixingProblem:
    """The problem of every worker, with the rows of all others as they are.

    Args:
        problem: the mixing.
        weights: adjusted, Ŵ, (m, n k).
        L: root of the metric, (k, m) with M = Lᵀ L.
        owner: of the rows, (m,).
    """
    moments, tau = problem.moments, times_mean(SELECTION_TRUST, L)
    apart, best = moments.best - weights, weights.copy()
    seen, metric = L @ apart, np.zeros((len(apart), len(apart)))
    for q in range(problem.workers):
        rows = np.flatnonzero(owner == q)
        block = L[:, rows].T @ L[:, rows] + tau * np.eye(rows.size)
        metric[np.ix_(rows, rows)] = block
        best[rows] += np.linalg.solve(block, L[:, rows].T @ seen + tau * apart[rows])
    return replace(problem, moments=moments.aiming_at(best), metric=metric)
