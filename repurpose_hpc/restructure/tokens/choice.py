"""One form for every half: the least error within budgets of communication and computation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from repurpose_hpc.restructure.support.reserve import BudgetTooSmall
from repurpose_hpc.restructure.tokens.forms import Choices

# Shares of communication in the price of both that are tried, from next to none to nearly all of it.
_SHARES = 81
_BISECTIONS = 60


class Budget(NamedTuple):
    """What all halves together may cost.

    Attributes:
        cost: values of a token, with what rounds cost.
        multiply_adds: of a token, of one worker.
    """

    cost: float
    multiply_adds: float


def choose(
    choices: Sequence[Choices], sensitivity: np.ndarray, round_cost: float, budget: Budget
) -> list[int]:
    """The number of the form that each half gets.

    Errors of halves, each times its sensitivity, are added up.  Communication and computation have a price
    (Lagrange's relaxation), the lowest with which the budget is kept; of all ways to share it between the two
    the one with the least error is taken, and what is left of the budget is spent where it helps most.

    Args:
        choices: of each half.
        sensitivity: output error for an error of each half, (halves,).
        round_cost: price of a round in values.
        budget: not to be exceeded.

    Raises:
        BudgetTooSmall: no choice keeps it.
    """
    errors = [choice.error * weight for choice, weight in zip(choices, sensitivity, strict=True)]
    costs = [choice.values + round_cost * choice.rounds for choice in choices]
    loads = [choice.multiply_adds for choice in choices]

    def total(numbers: Sequence[np.ndarray], chosen: Sequence[int]) -> float:
        return float(sum(number[place] for number, place in zip(numbers, chosen, strict=True)))

    def is_within(chosen: Sequence[int]) -> bool:
        return total(costs, chosen) <= budget.cost and total(loads, chosen) <= budget.multiply_adds

    def cheapest(price: float, of_cost: float) -> list[int]:
        prices = price * of_cost / max(budget.cost, 1), price * (1 - of_cost) / budget.multiply_adds
        return [
            int(np.argmin(error + prices[0] * cost + prices[1] * load))
            for error, cost, load in zip(errors, costs, loads, strict=True)
        ]

    finite = np.concatenate([error[np.isfinite(error)] for error in errors])
    scale = max(float(finite.max()), np.finfo(np.float64).tiny)
    found: list[list[int]] = []
    for of_cost in 1 / (1 + np.geomspace(1e-4, 1e4, _SHARES)):
        low, high = 1e-12 * scale, 1e9 * scale
        if not is_within(cheapest(high, of_cost)):
            continue
        for _ in range(_BISECTIONS):
            middle = np.sqrt(low * high)
            low, high = (low, middle) if is_within(cheapest(middle, of_cost)) else (middle, high)
        found.append(cheapest(high, of_cost))
    if not found:
        raise BudgetTooSmall(
            f"expected forms that send at most {budget.cost:,.0f} values of a token and have a worker do at "
            f"most {budget.multiply_adds:,.0f} multiply-adds, found none; allow a larger comm_budget or load"
        )
    best = min(found, key=lambda chosen: total(errors, chosen))
    return _spent(best, errors, costs, loads, budget)


def _spent(
    chosen: list[int],
    errors: Sequence[np.ndarray],
    costs: Sequence[np.ndarray],
    loads: Sequence[np.ndarray],
    budget: Budget,
) -> list[int]:
    """The choice with what is left of the budget spent, as long as any half's error becomes less."""
    chosen = list(chosen)
    while True:
        cost = budget.cost - sum(c[place] for c, place in zip(costs, chosen, strict=True))
        load = budget.multiply_adds - sum(x[place] for x, place in zip(loads, chosen, strict=True))
        best = (0.0, -1, -1)
        for half, place in enumerate(chosen):
            more = costs[half] - costs[half][place]
            gain = errors[half][place] - errors[half]
            gain = np.where((more <= cost) & (loads[half] - loads[half][place] <= load), gain, 0.0)
            other = int(np.argmax(gain))
            best = max(best, (float(gain[other]), half, other))
        if best[0] <= 0:
            return chosen
        chosen[best[1]] = best[2]
