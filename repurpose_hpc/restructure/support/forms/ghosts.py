"""Ghost form: inputs travel, and each worker ranks the ones that it does not own (step 3.2)."""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from repurpose_hpc.restructure.support.elimination import (
    column_numbers,
    eliminate,
    metric_root,
    select_candidates,
)
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.tradeoff import NOTHING, Ranking, Tradeoff, ranked


def ghost_tradeoff(problem: MixingProblem, owner: np.ndarray) -> Tradeoff:
    """Rank the ghosts of each worker by the error that they avoid; collective."""
    own, limits = problem.own(), problem.most_ghosts(np.bincount(owner, minlength=problem.workers))

    def worker(q: int) -> tuple[Ranking, float]:
        rows = np.flatnonzero(owner == q)
        count = min(int(limits[q]), int((problem.linked(rows) & ~own[q]).sum()))
        return _worker_ghosts(problem, q, rows, own[q], count) if rows.size and count > 0 else (NOTHING, 0.0)

    rankings = problem.team.map(worker, range(problem.workers))
    return Tradeoff(sum(floor for _, floor in rankings), [ranking for ranking, _ in rankings], [])


def _worker_ghosts(
    problem: MixingProblem, q: int, rows: np.ndarray, own: np.ndarray, count: int
) -> tuple[Ranking, float]:
    """The ``count`` most valuable ghosts of worker ``q``, and the error that they leave."""
    H, taps = problem.moments.H, problem.taps
    L = metric_root(problem.metric[np.ix_(rows, rows)])
    R = L @ problem.moments.R[rows]
    costs = np.ones(len(own))
    costs[~own] = problem.ghost_costs[problem.source_owner[~own], q]
    linked = problem.linked(rows)
    own, candidates = own & linked, np.flatnonzero(linked & ~own)
    if count < len(candidates):
        S = column_numbers(np.flatnonzero(linked), taps)
        chosen = select_candidates(H[np.ix_(S, S)], R[:, S], own[linked], costs[linked], count, taps)
        candidates = np.flatnonzero(linked)[chosen]
    neurons = np.concatenate([np.flatnonzero(own), candidates])
    S = column_numbers(neurons, taps)
    H_SS, R_S = H[np.ix_(S, S)], R[:, S]
    removed, avoided = eliminate(H_SS, R_S, np.arange(len(neurons)) < own.sum(), costs[neurons], taps)
    floor = np.vdot(R, problem.moments.solve(R)) - np.vdot(R_S, cho_solve(cho_factor(H_SS), R_S.T).T)
    ghosts = neurons[removed[::-1]]
    return ranked(ghosts, avoided[::-1], costs[ghosts]), max(float(floor), 0.0)
