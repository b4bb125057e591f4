"""Searches of budgets, which know of a trial only what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

# A search ends when the smallest budget that was enough is at most so many times one that was not.
RESOLUTION = 1.1
# With so many times the values there is room for less computation.
ROOM = 2
# Budgets of computation below this are not tried: there is hardly any time left to gain.
LEAST_COMPUTE = 1 / 64


class Kept(NamedTuple):
    """A trial within the tolerance.

    Attributes:
        seconds: its modelled time.
        compute: what the busiest worker does, as a fraction of its share of the dense multiply-adds.
    """

    seconds: float
    compute: float


Budgets = tuple[int, float]
"""Values per sample, and the largest fraction of its share of the dense multiply-adds that a worker does."""


def least_values(meets: Callable[[int], bool], dense: int) -> int | None:
    """The smallest budget tried that is enough, in values per sample; None if not even ``dense`` is.

    Nothing and everything are tried first; then the logarithm of the budget is bisected down to
    ``RESOLUTION``.

    Args:
        meets: tells if a budget is enough.  That need not be monotone: the search then ends at one of
            the budgets that are enough beside one that is not.
        dense: values per sample with nothing pruned.
    """
    if meets(0):
        return 0
    if not dense or not meets(dense):
        return None
    low, high = 0, dense
    while high - low > 1 and high > RESOLUTION * low:
        middle = min(max(round(math.sqrt(max(low, 1) * high)), low + 1), high - 1)
        if meets(middle):
            high = middle
        else:
            low = middle
    return high


def least_time(
    attempt: Callable[[int, float], Kept | None], dense: int, most: float, computes_less: bool = True
) -> Budgets | None:
    """The budgets tried that are enough with the least time; None if not even ``dense`` is enough.

    The fewest values are looked for first, with as much computation as may be.  Then computation is reduced
    with that many values, with ``ROOM`` times as many, and so on, until that brings nothing.  All trials
    compete, that with nothing pruned among them.

    Args:
        attempt: of so many values per sample and a budget of computation: what came of it; None: not enough.
        dense: values per sample with nothing pruned.
        most: budget of computation that may not be exceeded.
        computes_less: whether smaller ones may be tried.
    """
    tried: dict[Budgets, Kept | None] = {}

    def meets(values: int, compute: float = most) -> bool:
        if (values, compute) not in tried:
            tried[values, compute] = attempt(values, compute)
        return tried[values, compute] is not None

    def ranked() -> list[tuple[float, Budgets]]:
        return sorted((kept.seconds, budgets) for budgets, kept in tried.items() if kept is not None)

    fewest = least_values(meets, dense)
    if fewest is None:
        return None
    meets(dense)
    of_fewest = tried[fewest, most]
    if computes_less and of_fewest is not None:
        compute = min(most, of_fewest.compute)
        for values in _levels(fewest, dense):
            before = ranked()[0]
            compute = least_compute(partial(meets, values), compute)
            if values > fewest and ranked()[0] == before:
                break
    return ranked()[0][1]


def least_compute(meets: Callable[[float], bool], enough: float) -> float:
    """The smallest budget of computation tried that is enough, at most ``enough``.

    Args:
        meets: tells if a budget is enough, which need not be monotone.
        enough: is taken to be.
    """
    low, high = enough / 2, enough
    while low >= LEAST_COMPUTE and meets(low):
        low, high = low / 2, low
    while high > RESOLUTION * low:
        middle = math.sqrt(low * high)
        if meets(middle):
            high = middle
        else:
            low = middle
    return high


def _levels(fewest: int, dense: int) -> Iterator[int]:
    """Values per sample from ``fewest`` to ``dense``, each ``ROOM`` times those before."""
    values = fewest
    while values < dense:
        yield values
        # From nothing, to what ``least_values`` tries first between nothing and everything.
        values = min(ROOM * values or round(math.sqrt(dense)), dense)
    yield dense
