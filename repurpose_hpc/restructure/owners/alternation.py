"""Assignment and elimination in turn: rows go where what they need is."""

from __future__ import annotations

import numpy as np

from repurpose_hpc.restructure.owners.costs import assign_rows
from repurpose_hpc.restructure.support.forms import Problem, mask_of, tradeoffs
from repurpose_hpc.restructure.support.tradeoff import Tradeoff, cheapest

# More change little (docs/method.md).
ALTERNATIONS = 2


def alternate(
    problem: Problem,
    capacity: np.ndarray,
    owner: np.ndarray,
    forms: list[Tradeoff],
    price: float,
    ahead: np.ndarray,
) -> tuple[np.ndarray, list[Tradeoff]]:
    """Assign the rows anew to the supports found, and eliminate anew, while that helps.

    The objective, error plus ``price`` times the communication, minus what the next mixing gains from the
    owners, never rises.

    Args:
        problem: the mixing.
        capacity: of the workers in the target space, (P,).
        owner: of the rows, (m,).
        forms: their trade-offs.
        price: λ.
        ahead: what the next mixing gains if row i is worker q's, (m, P).

    Returns:
        owner and trade-offs, the best ones met.
    """

    def objective(owner: np.ndarray, forms: list[Tradeoff]) -> float:
        gained = float(ahead[np.arange(owner.size), owner].sum())
        return cheapest(forms, price).objective(price) - gained

    for _ in range(ALTERNATIONS - 1):
        best = cheapest(forms, price)
        if best.sums:
            break
        supports = mask_of(problem, best, owner, price).ghosts | problem.own()
        new_owner = assign_rows(problem, supports, capacity, ahead)
        new_forms = tradeoffs(problem, new_owner)
        if objective(new_owner, new_forms) >= objective(owner, forms):
            break
        owner, forms = new_owner, new_forms
    return owner, forms
