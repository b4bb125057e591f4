"""Step 4.1 for computation: the order in which a worker does without columns of its blocks.

A *column* of worker q in a mixing is a neuron that q multiplies: an own one, one of a replicated input, or a
ghost.  It goes as ghosts do (``elimination``), at the price of the multiply-adds that it takes: those of its
weights, and for an own neuron which nobody else reads those of the row that makes it, as such a neuron is no
longer computed.  A block without some columns is as dense as before, so time falls with them.  What a worker
is told by relays stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repurpose_hpc.plan.masks import MixingPlan
from repurpose_hpc.plan.relays import Relays
from repurpose_hpc.restructure.support.elimination import columns, eliminate, inverse
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
    problem: MixingProblem,
    owner: np.ndarray,
    plan: MixingPlan,
    offer: Offer,
    relays: Relays | None = None,
) -> list[Ranking]:
    """Rank the columns that each worker may do without, by the error that they avoid; collective.

    Args:
        problem: the mixing.
        owner: of its rows, (m,).
        plan: of the mixing.
        offer: the columns.
        relays: of the mixing, if it has some.
    """
    own, workers = problem.own(), np.arange(problem.workers)

    def of_worker(q: int) -> Ranking:
        rows = np.flatnonzero((owner == q) | plan.sums[q])
        # What others know of these rows reaches them as sums.
        others = np.isin(workers, owner[plan.sums[q]]) | plan.sums[:, rows].any(axis=1)
        reads = (own[q] | plan.ghosts[q] | own[others].any(axis=0)) & problem.linked(rows)
        offered = offer.offered[q] & reads
        if not (rows.size and offered.any()):
            return NOTHING
        S = np.flatnonzero(problem.columns(reads))
        root = problem.metric_root(rows)
        if relays is None:
            H, R = problem.moments.H[np.ix_(S, S)], root @ problem.moments.R[np.ix_(rows, S)]
        else:
            C = relays.columns[columns(relays.receiver == q, relays.taps)]
            H, R = _given(C, problem.moments.H, root @ problem.moments.R[rows], S)
        Hinv = inverse(H)
        # What stays has no price.
        costs = np.where(offered, offer.costs[q], 1.0)[reads]
        order, avoided = eliminate(Hinv, R @ Hinv, ~offered[reads], costs, problem.taps)
        return ranked(np.flatnonzero(reads)[order[::-1]], avoided[::-1], costs[order[::-1]])

    return problem.team.map(of_worker, range(problem.workers))


def _given(C: np.ndarray, H: np.ndarray, R: np.ndarray, S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """H and R of the columns S, given the combinations C, (c, n k), of all columns."""
    CH = C @ H
    explained = np.linalg.solve(CH @ C.T, CH[:, S])
    return H[np.ix_(S, S)] - CH[:, S].T @ explained, R[:, S] - R @ C.T @ explained
