"""One form for every half: the least error within budgets of communication and computation.

A knapsack problem with two capacities and one thing of each group (multiple-choice knapsack), solved to a
thousandth by branch and bound (HiGHS).  Prices for both capacities alone (Lagrange's relaxation) do not do:
with few halves, each of few forms, they can miss the best by far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from repurpose_hpc.restructure.support.reserve import BudgetTooSmall
from repurpose_hpc.restructure.tokens.forms import Choices

# Of the error, by which a choice may miss the best.
_GAP = 1e-3
# Price of both whole budgets, in errors: of equal errors the cheaper is taken.
_PRICE = 1e-4
# Of a budget: by which the solver may exceed it, and what is rounding of a sum, less than any value.
_TOLERANCE, _ROUNDING = 2e-6, 1e-12
_SOLUTIONS = 3


class Budget(NamedTuple):
    """What all halves together may cost.

    Attributes:
        cost: values of a token, with what rounds cost.
        multiply_adds: of a token, of one worker.
    """

    cost: float
    multiply_adds: float


class _Candidates(NamedTuple):
    """Forms of all halves, one after the other.

    Attributes:
        halves: how many there are.
        half: of which each is, (count,).
        place: among the forms of that half, (count,).
        error: times the sensitivity of the half, (count,).
        parts: of both budgets that each takes, (2, count).
    """

    halves: int
    half: np.ndarray
    place: np.ndarray
    error: np.ndarray
    parts: np.ndarray

    def only(self, mask: np.ndarray) -> _Candidates:
        """Some of them."""
        return _Candidates(
            self.halves, self.half[mask], self.place[mask], self.error[mask], self.parts[:, mask]
        )


def choose(
    choices: Sequence[Choices], sensitivity: np.ndarray, round_cost: float, budget: Budget
) -> list[int]:
    """The number of the form that each half gets.

    Errors of halves, each times its sensitivity, are added up; the sum is the least within the budget, or at
    most a thousandth larger.

    Args:
        choices: of each half.
        sensitivity: output error for an error of each half, (halves,).
        round_cost: price of a round in values.
        budget: not to be exceeded.

    Raises:
        BudgetTooSmall: no choice keeps it.
    """
    candidates = _candidates(choices, sensitivity, round_cost, budget)
    for most in (1.0, 1 - _TOLERANCE):
        found = _best(candidates, most)
        if found is None:
            break
        if (candidates.parts[:, found].sum(axis=1) <= 1 + _ROUNDING).all():
            return candidates.place[found].tolist()
    raise BudgetTooSmall(
        f"expected forms that send at most {budget.cost:,.0f} values of a token and have a worker do at "
        f"most {budget.multiply_adds:,.0f} multiply-adds, found none; allow a larger comm_budget or load"
    )


def _candidates(
    choices: Sequence[Choices], sensitivity: np.ndarray, round_cost: float, budget: Budget
) -> _Candidates:
    """The forms that may be the best: none of their half is better in one respect and as good in the rest."""
    parts = []
    for half, (choice, weight) in enumerate(zip(choices, sensitivity, strict=True)):
        cost = choice.values + round_cost * choice.rounds
        numbers = np.stack([choice.error * weight, cost, choice.multiply_adds]).astype(np.float64)
        alone = (cost <= budget.cost) & (choice.multiply_adds <= budget.multiply_adds)
        place = np.flatnonzero(np.isfinite(numbers[0]) & alone)
        numbers = numbers[:, place]
        as_good = (numbers[:, :, None] <= numbers[:, None, :]).all(axis=0)
        # Of equal ones the first stays.
        better = as_good & ~(as_good.T & np.tri(place.size, dtype=bool))
        stays = ~better.any(axis=0)
        parts.append((np.full(stays.sum(), half), place[stays], numbers[:, stays]))
    halves, places, numbers = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    error, cost, load = numbers
    of_budget = np.stack([cost / (budget.cost or 1.0), load / budget.multiply_adds])
    return _Candidates(len(choices), halves, places, error, of_budget)


def _best(candidates: _Candidates, most: float) -> np.ndarray | None:
    """The candidates of the choice with the least error, one of each half, ascending; None: there is none.

    Errors range over many orders of magnitude, and the solver's tolerances are absolute.  So it is solved
    again, in units of the error found, without forms that alone have a larger one.
    """
    if np.unique(candidates.half).size < candidates.halves:
        return None
    within, unit = np.arange(candidates.half.size), float(candidates.error.max())
    for _ in range(_SOLUTIONS):
        found = _solved(candidates.only(within), most, unit)
        if found is None:
            return None
        chosen = within[found]
        unit = float(candidates.error[chosen].sum())
        within = np.flatnonzero(candidates.error <= unit)
    return chosen


def _solved(candidates: _Candidates, most: float, unit: float) -> np.ndarray | None:
    """As ``_best``, with errors in some unit; if it is 0 none counts."""
    count = candidates.half.size
    one_of_each = csr_array((np.ones(count), (candidates.half, np.arange(count))))
    prices = candidates.parts.sum(axis=0)
    result = milp(
        candidates.error / unit + _PRICE * prices if unit else prices,
        integrality=np.ones(count),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_of_each, 1, 1),
            LinearConstraint(candidates.parts, -np.inf, most),
        ],
        # With presolve it prints a line now and then, and takes longer.
        options={"mip_rel_gap": _GAP, "presolve": False},
    )
    return None if result.x is None else np.flatnonzero(result.x > 0.5)
