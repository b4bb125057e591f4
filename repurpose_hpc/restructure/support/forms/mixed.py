"""Mixed form: ghosts, and sums for the rows to which they are still worth their price (step 3.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from repurpose_hpc.restructure.support.forms.masks import mask_of
from repurpose_hpc.restructure.support.forms.sums import row_sums
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.tradeoff import Tradeoff, cheapest


def with_mixed(
    problem: MixingProblem, owner: np.ndarray, forms: Sequence[Tradeoff], price: float
) -> list[Tradeoff]:
    """Pure forms, and where sums make sense beside ghosts, both together; collective.

    Args:
        problem: the mixing.
        owner: of its rows, (m,).
        forms: the pure ones.
        price: λ.
    """
    form = cheapest(forms, price)
    if form.sums or form.relays or problem.only_ghosts or problem.silent:
        return list(forms)
    return [*forms, mixed_tradeoff(problem, owner, form, price)]


def mixed_tradeoff(problem: MixingProblem, owner: np.ndarray, ghosts: Tradeoff, price: float) -> Tradeoff:
    """Add partial sums to ghosts, for rows to which they are worth more than ``price``; collective.

    Args:
        problem: the mixing.
        owner: of its rows, (m,).
        ghosts: its ghost form.
        price: λ, for which the result holds.

    Returns:
        a form whose objective at ``price`` is at most that of ``ghosts``.
    """
    supports = problem.own() | mask_of(problem, ghosts, owner, price).ghosts
    sums = row_sums(problem, owner, supports, price)
    worthwhile = [ranking.only(ranking.savings > price) for ranking in sums]
    saved = sum(float(ranking.savings @ ranking.costs) for ranking in worthwhile)
    return replace(ghosts, floor=ghosts.floor - saved, sums=worthwhile)
