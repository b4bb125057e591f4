"""Steps 3.2 and 3.3: the error that a mixing has left for each price of communication.

A *trade-off* is the result of elimination for one mixing in one form: for each receiver a *ranking* of the
groups that may be sent to it, the most valuable first, with the error that each avoids per unit of cost.
Receivers are the P workers, whose groups are ghost neurons or relays, and the m rows, whose groups are the
workers that contribute a partial sum.  At price λ a group is kept if it avoids more than λ per unit of cost.
One λ for all mixings spreads one budget over the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from repurpose_hpc.restructure.support.problem import MixingProblem


@dataclass(frozen=True, eq=False)
class Ranking:
    """The groups that may be sent to a worker or a row, by their value.

    Attributes:
        groups: ghosts or contributors, the most valuable first, (g,) integers.
        savings: error avoided by each per unit of cost, never rising, (g,).
        costs: of sending each, values per sample times the price of the link, (g,).
    """

    groups: np.ndarray
    savings: np.ndarray
    costs: np.ndarray

    def kept(self, price: float) -> np.ndarray:
        """The groups that are worth more than ``price``."""
        return self.groups[self.savings > price]

    def only(self, kept: np.ndarray) -> Ranking:
        """The ranking with some of its groups, bool (g,)."""
        return Ranking(self.groups[kept], self.savings[kept], self.costs[kept])


NOTHING = Ranking(np.empty(0, np.int64), np.empty(0), np.empty(0))


@dataclass(frozen=True, eq=False)
class Tradeoff:
    """Error against communication, for one mixing in one form.

    Attributes:
        floor: error, in the metric, with every group kept, above the unrestricted optimum.
        ghosts: a ranking for each worker; empty in other forms than that of ghosts.
        sums: a ranking for each row; empty in ghost form.
        relays: a ranking for each worker in relay form, of the rows of its ``combinations``; else empty.
        combinations: C of each worker in relay form, its candidates, (g, n), or (g, n k) behind the window of
            the mixing; else empty.
        rank: the same form of another problem, with owners of its rows, (m,); None: nothing can be sent.
    """

    floor: float
    ghosts: Sequence[Ranking]
    sums: Sequence[Ranking]
    relays: Sequence[Ranking] = ()
    combinations: Sequence[csr_array] = ()
    rank: Callable[[MixingProblem, np.ndarray], Tradeoff] | None = None

    @property
    def is_silent(self) -> bool:
        """True if there is nothing that may be sent."""
        return not (self.ghosts or self.sums or self.relays)

    @property
    def silent_error(self) -> float:
        """Error with nothing sent."""
        return self.objective(np.inf)

    def pooled(self) -> np.ndarray:
        """The savings of all rankings, in one array."""
        return self._concatenate("savings")

    def objective(self, price: float) -> float:
        """Error plus ``price`` times the communication, at the best choice for that price."""
        return self.floor + float(self._concatenate("costs") @ np.minimum(self.pooled(), price))

    def cost(self, price: float) -> float:
        """Communication at ``price``: cost of all values sent per sample."""
        return float(self._concatenate("costs") @ (self.pooled() > price))

    def _concatenate(self, name: str) -> np.ndarray:
        return np.concatenate(
            [np.empty(0), *(getattr(ranking, name) for ranking in (*self.ghosts, *self.sums, *self.relays))]
        )


# The trade-offs of one mixing, one for each form, ghost form first.
Forms = list[Tradeoff]


def silent(error: float) -> Tradeoff:
    """The form in which nothing is sent, and so much error left."""
    return Tradeoff(error, [], [])


def ranked(groups: np.ndarray, avoided: np.ndarray, costs: np.ndarray) -> Ranking:
    """A ranking from the order of elimination reversed.

    A group that is worth little by itself but much with the next one is kept or dropped together
    with it: runs of rising savings are replaced by their mean (the lower convex hull of error
    against cost).

    Args:
        groups: the last one eliminated first, (g,).
        avoided: error that each avoids, (g,).
        costs: of each, (g,).
    """
    runs: list[tuple[float, float, int]] = []
    for error, cost in zip(avoided, costs, strict=True):
        run = (float(error), float(cost), 1)
        while runs and runs[-1][0] * run[1] <= run[0] * runs[-1][1]:
            previous = runs.pop()
            run = (previous[0] + run[0], previous[1] + run[1], previous[2] + run[2])
        runs.append(run)
    savings = [np.full(length, error / cost) for error, cost, length in runs]
    return Ranking(groups, np.concatenate([np.empty(0), *savings]), np.asarray(costs, float))


def cheapest(forms: Sequence[Tradeoff], price: float) -> Tradeoff:
    """The form of a mixing with the least error plus communication at ``price``."""
    return min(forms, key=lambda form: form.objective(price))


def price_for(mixings: Sequence[Sequence[Tradeoff]], budget: float) -> float:
    """The lowest λ at which all mixings together cost at most ``budget`` per sample.

    Each mixing is in its cheapest form at that price; as the lower envelope of concave functions
    of λ its objective is concave, so the communication falls as λ rises.

    Args:
        mixings: the forms of each mixing.
        budget: >= 0.
    """

    def cost(price: float) -> float:
        return sum(cheapest(forms, price).cost(price) for forms in mixings)

    return lowest_price(prices_of(mixings), cost, budget)


def prices_of(mixings: Sequence[Sequence[Tradeoff]]) -> np.ndarray:
    """The prices at which something changes in the forms of mixings, rising, from 0 on."""
    return np.unique(np.concatenate([[0.0], *(form.pooled() for forms in mixings for form in forms)]))


def lowest_price(prices: np.ndarray, cost: Callable[[float], float], budget: float) -> float:
    """The lowest price at which ``cost``, which falls as it rises, is at most ``budget``.

    Args:
        prices: to choose from, rising; the last one is taken if no other will do.
        cost: of a price.
        budget: >= 0.
    """
    low, high = 0, len(prices) - 1
    while low < high:
        middle = (low + high) // 2
        # Costs are sums of fractions: what differs by rounding only is equal.
        if cost(float(prices[middle])) <= budget * (1 + 1e-12):
            high = middle
        else:
            low = middle + 1
    return float(prices[low])
