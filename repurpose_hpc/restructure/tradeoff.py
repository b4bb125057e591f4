"""What every value sent buys: the error a mixing has left for each price of communication.

A *trade-off* is what elimination yields for one mixing in one form: for each unit (a worker in
ghost form, a row in partial-sum form) the groups it may receive, the most valuable first, and
the error that each avoids per value sent.  At price λ a group is kept if it avoids more than λ.
One λ for all mixings spreads one budget over the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Tradeoff:
    """Error against values sent, for one mixing in one form.

    Attributes:
        form: ghost or partial-sum.
        floor: error, in the metric, with every group kept, above the unrestricted optimum.
        groups: of each unit, its groups in falling order of value: lists of int arrays.
        savings: error avoided per value sent by each of them, never rising within a unit.
        values: values per sample that one group sends.
    """

    form: str
    floor: float
    groups: list[np.ndarray]
    savings: list[np.ndarray]
    values: int

    def pooled(self) -> np.ndarray:
        """The savings of all units, in one array."""
        return np.concatenate([np.empty(0), *self.savings])

    def objective(self, price: float) -> float:
        """Error plus ``price`` times the values sent, at the best choice for that price."""
        return self.floor + self.values * float(np.minimum(self.pooled(), price).sum())

    def count(self, price: float) -> int:
        """Values per sample sent at ``price``."""
        return self.values * int((self.pooled() > price).sum())

    def kept(self, price: float) -> list[np.ndarray]:
        """Of each unit, the groups that are worth more than ``price``."""
        return [groups[savings > price] for groups, savings in zip(self.groups, self.savings, strict=True)]


def falling(savings: np.ndarray) -> np.ndarray:
    """The closest sequence that never rises: rising runs are replaced by their mean.

    A group that is worth little by itself but much with the next one is then kept or dropped
    together with it (the lower convex hull of error against values).

    Args:
        savings: (g,), in the order of elimination reversed.
    """
    runs: list[tuple[float, int]] = []
    for saving in savings:
        mean, length = float(saving), 1
        while runs and runs[-1][0] <= mean:
            previous, count = runs.pop()
            mean = (mean * length + previous * count) / (length + count)
            length += count
        runs.append((mean, length))
    return np.concatenate([np.empty(0), *(np.full(length, mean) for mean, length in runs)])


def cheapest(forms: Sequence[Tradeoff], price: float) -> Tradeoff:
    """The form of a mixing with the least error plus communication at ``price``."""
    return min(forms, key=lambda form: form.objective(price))


def price_for(mixings: Sequence[Sequence[Tradeoff]], budget: int) -> float:
    """The lowest λ at which all mixings together send at most ``budget`` values per sample.

    Each mixing is in its cheapest form at that price; as the lower envelope of concave functions
    of λ its objective is concave, so the number of values falls as λ rises.

    Args:
        mixings: the forms of each mixing.
        budget: values per sample, >= 0.
    """
    prices = np.unique(np.concatenate([[0.0], *(form.pooled() for forms in mixings for form in forms)]))
    low, high = 0, len(prices) - 1
    while low < high:
        middle = (low + high) // 2
        price = float(prices[middle])
        if sum(cheapest(forms, price).count(price) for forms in mixings) <= budget:
            high = middle
        else:
            low = middle + 1
    return float(prices[low])
