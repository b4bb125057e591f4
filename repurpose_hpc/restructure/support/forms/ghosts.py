"""Ghost form: inputs travel, and each worker ranks the ones that it does not own (step 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.weights import column_numbers
from repurpose_hpc.restructure.support.elimination import eliminate, inverse, select_candidates
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.tradeoff import NOTHING, Ranking, Tradeoff, ranked


class _Worker(NamedTuple):
    """What a worker may choose its ghosts from.

    Attributes:
        q: its number.
        rows: that it owns.
        own: the neurons on which these may depend and that it has, bool (n,).
        candidates: the others on which they may depend.
        most: ghosts that it may be given.
    """

    q: int
    rows: np.ndarray
    own: np.ndarray
    candidates: np.ndarray
    most: int

    @property
    def has_choice(self) -> bool:
        """Whether there is anything to rank."""
        return min(self.rows.size, self.candidates.size, self.most) > 0

    @property
    def begins_with_all(self) -> bool:
        """Whether elimination begins with every neuron that there is."""
        all_are_linked = np.count_nonzero(self.own) + self.candidates.size == self.own.size
        return self.has_choice and all_are_linked and self.candidates.size <= self.most


def ghost_tradeoff(problem: MixingProblem, owner: np.ndarray) -> Tradeoff:
    """Rank the ghosts of each worker by the error that they avoid; collective."""
    own, limits = problem.own(), problem.most_ghosts(np.bincount(owner, minlength=problem.workers))
    tasks = []
    for q in range(problem.workers):
        rows = np.flatnonzero(owner == q)
        linked = problem.linked(rows)
        tasks.append(_Worker(q, rows, own[q] & linked, np.flatnonzero(linked & ~own[q]), int(limits[q])))
    whole = inverse(problem.moments.H) if any(task.begins_with_all for task in tasks) else None
    rankings = problem.team.map(
        lambda task: _worker_ghosts(problem, task, whole if task.begins_with_all else None), tasks
    )
    floor = sum(floor for _, floor in rankings)
    return Tradeoff(floor, [ranking for ranking, _ in rankings], [], rank=ghost_tradeoff)


def _worker_ghosts(
    problem: MixingProblem, worker: _Worker, whole: np.ndarray | None
) -> tuple[Ranking, float]:
    """The most valuable ghosts of a worker, and the error that they leave.

    Args:
        problem, worker: whose.
        whole: inverse of all of H, where the worker begins with all neurons; None: it does not.
    """
    if not worker.has_choice:
        return NOTHING, 0.0
    H, taps, rows, own = problem.moments.H, problem.taps, worker.rows, worker.own
    L = problem.metric_root(rows)
    R = L @ problem.moments.R[rows]
    costs = np.ones(len(own))
    costs[worker.candidates] = problem.ghost_costs[problem.source_owner[worker.candidates], worker.q]
    candidates = worker.candidates
    if worker.most < len(candidates):
        linked = own.copy()
        linked[candidates] = True
        S = column_numbers(np.flatnonzero(linked), taps)
        among = H if linked.all() else H[np.ix_(S, S)]
        chosen = select_candidates(among, R[:, S], own[linked], costs[linked], worker.most, taps)
        candidates = np.flatnonzero(linked)[chosen]
    neurons = np.concatenate([np.flatnonzero(own), candidates])
    S = column_numbers(neurons, taps)
    Hinv = inverse(H[np.ix_(S, S)]) if whole is None else whole[np.ix_(S, S)]
    V = R[:, S] @ Hinv
    floor = np.vdot(R, L @ problem.moments.best[rows]) - np.vdot(R[:, S], V)
    removed, avoided = eliminate(Hinv, V, np.arange(len(neurons)) < own.sum(), costs[neurons], taps)
    ghosts = neurons[removed[::-1]]
    return ranked(ghosts, avoided[::-1], costs[ghosts]), max(float(floor), 0.0)
