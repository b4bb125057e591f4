"""Step 3.3 with a price of rounds: which rounds of exchanges are worth theirs.

Mixings whose inputs are complete at the same time share a round (``plan.rounds``).  At price λ a round is
worth its cost V if what its mixings gain by sending, error avoided less λ times the values, is more than λ V.

Metrics discount the errors of a mixing by what later ones repair.  These do so with what they are sent, so
nobody repairs what is lost because rounds are given up: gains are taken without that discount.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from repurpose_hpc.restructure.support.tradeoff import Forms, cheapest, lowest_price, prices_of


class Member(NamedTuple):
    """A mixing of a round.

    Attributes:
        forms: its trade-offs.
        surviving: the share of its errors that its metric counts, as later mixings repair the rest.
    """

    forms: Forms
    surviving: float

    def gain(self, price: float) -> float:
        """What it gains by sending what is worth ``price``, undiscounted: it never rises with that."""
        error = self.forms[0].silent_error - cheapest(self.forms, price).objective(price)
        return error / self.surviving


def worthwhile_rounds(
    members: Mapping[int, Sequence[Member]], costs: Mapping[int, float], budget: float
) -> set[int]:
    """The rounds that are worth their costs at the price at which their mixings meet the budget.

    Rounds are given up one at a time, the one that gains least first, until all that are left are worth it.
    Each leaves more of the budget to the others, so that the price falls: it is always one of those at which
    something changes in any mixing.

    Args:
        members: the mixings of each round.
        costs: V of every round, in units of the budget; 0: there is one anyhow.
        budget: of values, >= 0.
    """
    kept = sorted(costs)
    prices = prices_of([member.forms for each in members.values() for member in each])
    while kept:
        price = lowest_price(
            prices, partial(_values, [m for round_ in kept for m in members[round_]]), budget
        )
        gains = {round_: sum(member.gain(price) for member in members[round_]) for round_ in kept}
        doubtful = [round_ for round_ in kept if costs[round_] and gains[round_] <= price * costs[round_]]
        if not doubtful:
            break
        kept.remove(min(doubtful, key=gains.__getitem__))
    return set(kept)


def _values(members: Sequence[Member], price: float) -> float:
    """Values that mixings send at a price."""
    return sum(cheapest(member.forms, price).cost(price) for member in members)
