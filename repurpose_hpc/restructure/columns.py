"""Step 4.1 for computation: the order in which a worker does without columns of its blocks.

A *column* of worker q in a mixing is a neuron that q multiplies: an own one, one of a replicated input, or a
ghost.  It goes as ghosts do (``elimination``), at the price of the multiply-adds that it takes: those of its
weights, and for an own neuron which nobody else reads those of the row that makes it, as such a neuron is no
longer computed.  A block without some columns is as dense as before, so time falls with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repurpose_hpc.plan.plan import MixingPlan
from repurpose_hpc.plan.relays import Relays
from repurpose_hpc.restructure.relayed import with_combinations
from repurpose_hpc.restructure.support.elimination import columns, eliminate, inverse, metric_root
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.tradeoff import NOTHING, Ranking, ranked


@dataclass(frozen=True, eq=False)
class Offer:
    """The columns that workers may do without in a mixing.

    Attributes:
        offered: bool, (P, n).
        loads: multiply-adds that each takes in the mixing, (P, n).
        costs: the same with those of the rows that go with it, (P, n).
    """

    offered: np.ndarray
    loads: np.ndarray
    costs: np.ndarray


def rank_columns(
    problem: MixingProblem, owner: np.ndarray, plan: MixingPlan, relays: Relays | None, offer: Offer
) -> list[Ranking]:
    """Rank the columns that each worker may do without, by the error that they avoid; collective.

    Args:
        problem: the mixing.
        owner: of its rows, (m,).
        plan: of the mixing.
        relays: that it has; None: none.
        offer: the columns.
    """
    moments, n = problem.moments, len(problem.moments.H)
    if relays is not None:
        moments = with_combinations(moments, relays.columns)
    own, workers = problem.own(), np.arange(problem.workers)
    received = np.zeros((problem.workers, len(moments.H) - n), bool)
    if relays is not None:
        received = columns(relays.ghosts(problem.workers), relays.taps)

    def of_worker(q: int) -> Ranking:
        rows = np.flatnonzero((owner == q) | plan.sums[q])
        # What others know of these rows reaches them as sums.
        others = np.isin(workers, owner[plan.sums[q]]) | plan.sums[:, rows].any(axis=1)
        reads = (own[q] | plan.ghosts[q] | own[others].any(axis=0)) & problem.linked(rows)
        offered = offer.offered[q] & reads
        if not (rows.size and offered.any()):
            return NOTHING
        S = np.flatnonzero(np.concatenate([problem.columns(reads), received[q]]))
        R = metric_root(problem.metric[np.ix_(rows, rows)]) @ moments.R[np.ix_(rows, S)]
        Hinv = inverse(moments.H[np.ix_(S, S)])
        # What stays has no price; relays all stay, so that their columns are no more needed.
        costs, size = np.where(offered, offer.costs[q], 1.0)[reads], problem.columns(reads).sum()
        order, avoided = eliminate(
            Hinv[:size, :size], (R @ Hinv)[:, :size], ~offered[reads], costs, problem.taps
        )
        return ranked(np.flatnonzero(reads)[order[::-1]], avoided[::-1], costs[order[::-1]])

    return problem.team.map(of_worker, range(problem.workers))
