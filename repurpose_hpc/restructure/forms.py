"""The two forms of a mixing as trade-offs, and the masks they lead to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repurpose_hpc.plan.plan import EVERYBODY, GHOST, PARTIAL, MixingPlan, ghost_plan, partial_plan
from repurpose_hpc.restructure.elimination import eliminate, metric_root, select_candidates
from repurpose_hpc.restructure.statistics import Moments
from repurpose_hpc.restructure.tradeoff import Tradeoff, falling


@dataclass(frozen=True, eq=False)
class Problem:
    """One mixing, ready to be assigned and eliminated.

    Attributes:
        moments: its least-squares problem, in which errors are judged.
        metric: M, (m, m).
        source_owner: owners of the source space, (n,) int32.
        workers: P.
        values: values per sample and neuron that an exchange of the source space carries.
        target_values: the same for the target space.
        most: no worker is given more ghosts than this.
    """

    moments: Moments
    metric: np.ndarray
    source_owner: np.ndarray
    workers: int
    values: int
    target_values: int
    most: int

    def own(self) -> np.ndarray:
        """What each worker has without asking, bool (P, n)."""
        workers = np.arange(self.workers)[:, None]
        return (self.source_owner == workers) | (self.source_owner == EVERYBODY)


def tradeoffs(problem: Problem, owner: np.ndarray) -> list[Tradeoff]:
    """The forms in which the mixing may run when its rows belong to ``owner``, (m,)."""
    m, n = problem.moments.R.shape
    # With nothing pruned, ghosts cost n (P − 1) values and partial sums m (P − 1): the second form is for
    # narrow mixings.  Inputs that everybody has leave no sums to send.
    if m < n and not (problem.source_owner == EVERYBODY).any():
        return [ghost_tradeoff(problem, owner), partial_tradeoff(problem, owner)]
    return [ghost_tradeoff(problem, owner)]


def mask_of(problem: Problem, tradeoff: Tradeoff, owner: np.ndarray, price: float) -> MixingPlan:
    """The masks of a form at ``price``."""
    if tradeoff.form == GHOST:
        mask = problem.own()
        for q, ghosts in enumerate(tradeoff.kept(price)):
            mask[q, ghosts] = True
        return ghost_plan(mask, problem.source_owner, owner)
    mask = np.zeros((problem.workers, owner.size), bool)
    for i, contributors in enumerate(tradeoff.kept(price)):
        mask[contributors, i] = True
    return partial_plan(mask, problem.source_owner, owner)


def ghost_tradeoff(problem: Problem, owner: np.ndarray) -> Tradeoff:
    """Inputs travel: for each worker, its ghosts by what they avoid per value sent."""
    moments, own = problem.moments, problem.own()
    groups, savings, floor = [], [], 0.0
    target = moments.target
    for q in range(problem.workers):
        rows = np.flatnonzero(owner == q)
        L = metric_root(problem.metric[np.ix_(rows, rows)])
        ghosts, saved, missing = _worker_ghosts(problem, own[q], L @ moments.R[rows], L @ target[rows])
        groups.append(ghosts)
        savings.append(falling(saved / problem.values))
        floor += missing
    return Tradeoff(GHOST, floor, groups, savings, problem.values)


def _worker_ghosts(
    problem: Problem, own: np.ndarray, R: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """A worker's ghosts, the most valuable first, what each avoids, and what all the others would."""
    count = min(problem.most, int((~own).sum()))
    if len(R) == 0 or count == 0:
        return np.empty(0, np.int64), np.empty(0), 0.0
    H = problem.moments.H
    candidates = select_candidates(H, R, own, count) if count < (~own).sum() else np.flatnonzero(~own)
    S = np.concatenate([np.flatnonzero(own), candidates])
    H_SS, R_S = H[np.ix_(S, S)], R[:, S]
    removed, costs = eliminate(H_SS, R_S, np.arange(len(S)) < own.sum())
    missing = np.vdot(R, target) - np.vdot(R_S, np.linalg.solve(H_SS, R_S.T).T)
    return S[removed[::-1]], costs[::-1], max(float(missing), 0.0)


def partial_tradeoff(problem: Problem, owner: np.ndarray) -> Tradeoff:
    """Partial sums travel: for each row, the other workers by what their sum avoids per value sent.

    Within a row every worker's sum, with the unrestricted weights, is one input of its own, so that
    a row's choice is an elimination of single inputs with a P × P Gram matrix.
    """
    moments, holders = problem.moments, problem.source_owner == np.arange(problem.workers)[:, None]
    target = moments.target
    groups, savings = [], []
    for i, row in enumerate(target):
        sums = np.where(holders, row, 0.0)
        active = np.flatnonzero(sums.any(axis=1))
        sums = sums[active]
        gram, correlation = sums @ moments.H @ sums.T, sums @ moments.R[i]
        removed, costs = eliminate(gram, correlation[None], active == owner[i])
        groups.append(active[removed[::-1]])
        savings.append(falling(problem.metric[i, i] * costs[::-1] / problem.target_values))
    return Tradeoff(PARTIAL, 0.0, groups, savings, problem.target_values)
