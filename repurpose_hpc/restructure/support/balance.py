"""Step 3.5: fewer ghosts and relays, so that no worker holds more than it may (``--imbalance``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.tradeoff import Ranking, Tradeoff

# Sums of weights are whole numbers, and what they are compared with is not.
ROUNDING = 1e-9


def limit_received(
    problem: MixingProblem, owner: np.ndarray, form: Tradeoff, price: float, allowance: np.ndarray
) -> Tradeoff:
    """Drop ghosts or relays until no worker holds more than its allowance of the weights.

    First those that are worth no more than ``price``.  Then, as long as a worker holds too much, the least
    valuable of what the one that is furthest beyond receives, or makes for others.  Where its own neurons are
    too many, it is left with these.

    Args:
        problem: the mixing.
        owner: of its rows, (m,).
        form: with a ranking of ghosts or relays for each worker; in partial-sum form it is left as it is.
        price: λ.
        allowance: largest share of the weights of the mixing that each worker may hold, (P,).
    """
    received = form.ghosts or form.relays
    if not received:
        return form
    rows = np.bincount(owner, minlength=problem.workers)
    groups = _groups(problem, form, received, rows)
    own = rows * problem.columns(problem.own()).sum(axis=1)
    kept = _within(groups, groups.savings > price, own, allowance)
    ends = np.cumsum([ranking.groups.size for ranking in received])[:-1]
    rankings = [ranking.only(mask) for ranking, mask in zip(received, np.split(kept, ends), strict=True)]
    floor = form.floor + float((groups.savings * groups.costs)[~kept].sum())
    if form.relays:
        return replace(form, floor=floor, relays=rankings)
    return replace(form, floor=floor, ghosts=rankings)


@dataclass(frozen=True, eq=False)
class _Groups:
    """All ghosts or relays of a form, those of one receiver after those of the other, (g,) each.

    Attributes:
        receiver, read: a worker, and the weights that its rows have for the group.
        maker, made: a worker, and the weights of which it makes the group; of ghosts none.
        savings, costs: as in their rankings.
        workers: P.
    """

    receiver: np.ndarray
    read: np.ndarray
    maker: np.ndarray
    made: np.ndarray
    savings: np.ndarray
    costs: np.ndarray
    workers: int

    def weights(self, mask: np.ndarray) -> np.ndarray:
        """What each worker holds for the groups of a mask, (P,)."""
        read = np.bincount(self.receiver[mask], self.read[mask], self.workers)
        return read + np.bincount(self.maker[mask], self.made[mask], self.workers)


def _groups(problem: MixingProblem, form: Tradeoff, received: Sequence[Ranking], rows: np.ndarray) -> _Groups:
    """The groups of a form whose rankings are ``received``, for so many rows of each worker, (P,)."""
    sizes = [ranking.groups.size for ranking in received]
    receiver = np.repeat(np.arange(problem.workers), sizes)
    maker, made, columns = receiver, np.zeros(receiver.size), problem.taps
    if form.relays:
        combined = [C[ranking.groups] for C, ranking in zip(form.combinations, received, strict=True)]
        made = np.concatenate([np.diff(C.indptr) for C in combined]).astype(float)
        # Relays behind the window combine columns of neurons, and have one themselves.
        behind = combined[0].shape[1] // problem.source_owner.size
        first = np.concatenate([C.indices[C.indptr[:-1]] for C in combined])
        maker, columns = problem.source_owner[first // behind], problem.taps // behind
    savings, costs = (
        np.concatenate([getattr(ranking, name) for ranking in received]) for name in ("savings", "costs")
    )
    read = columns * rows[receiver].astype(float)
    return _Groups(receiver, read, maker, made, savings, costs, problem.workers)


def _within(groups: _Groups, mask: np.ndarray, own: np.ndarray, allowance: np.ndarray) -> np.ndarray:
    """Of the groups of a mask those with which workers keep within, that hold so many weights without."""
    kept, held = mask.copy(), own + groups.weights(mask)
    # The least valuable last; of equal ones the last of a ranking.
    order = np.lexsort((-np.arange(kept.size), groups.savings))[::-1]
    order = order[kept[order]]
    left = [
        order[(groups.receiver[order] == q) | (groups.maker[order] == q)].tolist()
        for q in range(groups.workers)
    ]
    while True:
        beyond = held - allowance * held.sum()
        beyond[[not mine for mine in left]] = 0
        worst = int(np.argmax(beyond))
        if beyond[worst] <= ROUNDING * held.sum():
            return kept
        group = left[worst].pop()
        if kept[group]:
            kept[group] = False
            held[groups.receiver[group]] -= groups.read[group]
            held[groups.maker[group]] -= groups.made[group]
