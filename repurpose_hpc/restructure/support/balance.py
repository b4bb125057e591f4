"""Step 3.5: fewer ghosts, so that no worker holds more than it may (``--imbalance``)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.tradeoff import Tradeoff

# The limits follow the total, which they lower: iterations until they agree.
ITERATIONS = 20


def limit_ghosts(
    problem: MixingProblem, owner: np.ndarray, form: Tradeoff, price: float, allowance: np.ndarray
) -> Tradeoff:
    """Drop ghosts of a form until no worker holds more than its allowance of the weights at ``price``.

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
    rows, own_counts = np.bincount(owner, minlength=problem.workers), problem.own().sum(axis=1)
    counts = np.array([ranking.kept(price).size for ranking in received])
    # Weights of a row for one of them, over those for a neuron: relays behind the window have one.
    width = problem.source_owner.size / form.combinations[0].shape[1] if form.relays else 1.0
    for _ in range(ITERATIONS):
        total = float(rows @ (own_counts + counts * width))
        room = allowance * total / np.maximum(rows, 1) - own_counts
        limits = np.floor(room / width).astype(np.int64)
        limited = np.minimum(counts, np.maximum(limits, 0))
        if (limited == counts).all():
            break
        counts = limited
    rankings = [
        ranking.first(count) if count < ranking.kept(price).size else ranking
        for ranking, count in zip(received, counts, strict=True)
    ]
    lost = sum(ranking.savings @ ranking.costs for ranking in received) - sum(
        u.savings @ u.costs for u in rankings
    )
    floor = form.floor + float(lost)
    if form.relays:
        return replace(form, floor=floor, relays=rankings)
    return replace(form, floor=floor, ghosts=rankings)
