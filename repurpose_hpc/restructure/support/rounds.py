"""Step 3.3 with a price of rounds: which rounds of exchanges are worth theirs.

Mixings whose inputs are complete at the same time share a round (``plan.rounds``).  At price λ a round is
worth its cost V if what its mixings gain by sending, error avoided less λ times the values, is more than λ V.
Gains fall as λ rises, so every round is worth it up to some highest price, and no further.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from repurpose_hpc.restructure.support.tradeoff import Tradeoff, cheapest, price_for

# Bisections of a price: down to the last digit of a float64.
HALVINGS = 60


def worthwhile_rounds(
    mixings: Sequence[Sequence[Tradeoff]], rounds: Sequence[int], costs: Mapping[int, float], budget: float
) -> set[int]:
    """The rounds that are worth their costs at the price at which their mixings meet the budget.

    Without the round that is worth it least, there is more of the budget for the others, and the price falls:
    so rounds are given up one at a time, until all that are left are worth it.

    Args:
        mixings: the forms of each mixing.
        rounds: of each mixing.
        costs: V of every round, in units of the budget, >= 0; 0: there is one anyhow.
        budget: of values, >= 0.
    """
    members = {
        round_: [forms for forms, own in zip(mixings, rounds, strict=True) if own == round_]
        for round_ in sorted(costs)
    }
    highest = {round_: highest_price(forms, costs[round_]) for round_, forms in members.items()}
    while members:
        price = price_for([forms for several in members.values() for forms in several], budget)
        least = min(members, key=lambda round_: highest[round_])
        if highest[least] > price:
            break
        del members[least]
    return set(members)


def highest_price(members: Sequence[Sequence[Tradeoff]], cost: float) -> float:
    """The price up to which a round is worth its cost; it is not worth it at that price itself.

    Args:
        members: the forms of each mixing of the round, ghost form first.
        cost: V, >= 0.
    """
    if cost == 0:
        return math.inf
    low, high = 0.0, max(gain(members, 0.0), 0.0) / cost
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if gain(members, middle) > middle * cost:
            low = middle
        else:
            high = middle
    return high


def gain(members: Sequence[Sequence[Tradeoff]], price: float) -> float:
    """What the mixings of a round gain by sending what is worth ``price``: it never rises with that."""
    return sum(forms[0].silent_error - cheapest(forms, price).objective(price) for forms in members)
