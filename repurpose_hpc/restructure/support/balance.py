"""Step 3.5: fewer ghosts, so that no worker holds more than it may (``--imbalance``)."""

from __future__ import annotations

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
        form: with a ranking for each worker, or in partial-sum form, which is left as it is.
        price: λ.
        allowance: largest share of the weights of the mixing that each worker may hold, (P,).
    """
    if not form.ghosts:
        return form
    rows, own_counts = np.bincount(owner, minlength=problem.workers), problem.own().sum(axis=1)
    counts = np.array([ranking.kept(price).size for ranking in form.ghosts])
    for _ in range(ITERATIONS):
        total = float(rows @ (own_counts + counts))
        limits = np.floor(allowance * total / np.maximum(rows, 1) - own_counts).astype(np.int64)
        limited = np.minimum(counts, np.maximum(limits, 0))
        if (limited == counts).all():
            break
        counts = limited
    rankings = [
        ranking.first(count) if count < ranking.kept(price).size else ranking
        for ranking, count in zip(form.ghosts, counts, strict=True)
    ]
    lost = sum(ranking.savings @ ranking.costs for ranking in form.ghosts) - sum(
        u.savings @ u.costs for u in rankings
    )
    return Tradeoff(form.floor + float(lost), rankings, form.sums)
