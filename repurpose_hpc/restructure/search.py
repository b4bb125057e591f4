"""Searches of budgets, which know of a trial only what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import NamedTuple

from repurpose_hpc.io.progress import TimeLeft

# A search ends when the smallest budget that was enough is at most so many times one that was not.
RESOLUTION = 1.1
# With so many times the values there is room for less computation.
ROOM = 2
# Budgets of computation below this are not tried: there is hardly any time left to gain.
LEAST_COMPUTE = 1 / 64
# Nor is a budget looked for whose time could be less by no more than this factor.
WORTH = 1.02


class Tried(NamedTuple):
    """Outcome of a trial.

    Attributes:
        is_enough: whether it stayed within the tolerance.
        seconds: its modelled time; 0 if there is no network.
        compute: what the busiest worker does, as a fraction of its share of the dense multiply-adds.
        sent: values per sample.
    """

    is_enough: bool
    seconds: float
    compute: float
    sent: int


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
    while (middle := _middle(low, high)) is not None:
        if meets(middle):
            high = middle
        else:
            low = middle
    return high


def _middle(low: int, high: int) -> int | None:
    """What is tried next between a budget that is too small and one that is enough; None: nothing."""
    if high - low <= 1 or high <= RESOLUTION * low:
        return None
    return min(max(round(math.sqrt(max(low, 1) * high)), low + 1), high - 1)


@cache
def most_between(low: int, high: int) -> int:
    """The most trials between a budget that is too small and one that is enough."""
    middle = _middle(low, high)
    return 0 if middle is None else 1 + max(most_between(low, middle), most_between(middle, high))


class Pace:
    """How far ``least_values`` is: the trials that may follow, and how long they may take.

    Args:
        dense: values per sample with nothing pruned.
    """

    def __init__(self, dense: int) -> None:
        self._dense, self._low, self._high = dense, 0, None if dense else 0
        self._done, self._left = 0, TimeLeft(0)

    def follow(self, values: int, is_enough: bool) -> int:
        """Trials that may follow one of so many values, at most."""
        self._done += 1
        if is_enough:
            self._high = values
        else:
            self._low = values
        if self._high is None:
            return 1 + most_between(0, self._dense) if values < self._dense else 0
        return most_between(self._low, self._high)

    def left(self, following: int) -> str:
        """``, about 40 s left`` if so many trials follow, each as long as those before; "": hardly any."""
        self._left.total = self._done + following
        return self._left(self._done)


def least_time(
    attempt: Callable[[int, float], Tried], dense: int, most: float, computes_less: bool = True
) -> Budgets | None:
    """The budgets tried that are enough with the least time; None if not even ``dense`` is enough.

    The fewest values are looked for first, with as much computation as may be.  Then computation is reduced
    with that many values, with ``ROOM`` times as many, and so on, until that brings little or is not sent.
    All trials compete, that with nothing pruned among them.

    Args:
        attempt: tries so many values per sample and a budget of computation.
        dense: values per sample with nothing pruned.
        most: budget of computation that may not be exceeded.
        computes_less: whether smaller ones may be tried.
    """
    tried: dict[Budgets, Tried] = {}

    def outcome(values: int, compute: float) -> Tried:
        if (values, compute) not in tried:
            tried[values, compute] = attempt(values, compute)
        return tried[values, compute]

    def best() -> Budgets:
        return min((at for at in tried if tried[at].is_enough), key=lambda at: (tried[at].seconds, at))

    fewest = least_values(lambda values: outcome(values, most).is_enough, dense)
    if fewest is None:
        return None
    outcome(dense, most)
    enough = outcome(fewest, most)
    for values in _levels(fewest, dense) if computes_less else ():
        before = tried[best()].seconds
        enough = least_compute(partial(outcome, values), enough)
        brings_little = before <= WORTH * tried[best()].seconds
        if values > fewest and (brings_little or ROOM * enough.sent <= values):
            break
    return best()


def least_compute(attempt: Callable[[float], Tried], enough: Tried) -> Tried:
    """The trial with the smallest budget of computation that is enough, or ``enough``.

    Args:
        attempt: tries a budget.  What is enough need not be monotone.
        enough: a trial that was, or would be with these values.
    """
    # A small step first: where there is no room at all, that is the only trial.
    high, budget = enough.compute, enough.compute / RESOLUTION
    while budget >= LEAST_COMPUTE:
        found = attempt(budget)
        if not found.is_enough:
            return _bisected(attempt, budget, found, high, enough)
        enough, high, budget = found, budget, budget / 2
    return enough


def _bisected(
    attempt: Callable[[float], Tried], low: float, too_little: Tried, high: float, enough: Tried
) -> Tried:
    """The trial of the smallest budget between two that is enough, as far as that is worth trials."""
    while high > RESOLUTION * low * (1 + 1e-9) and enough.seconds > WORTH * too_little.seconds:
        middle = math.sqrt(low * high)
        found = attempt(middle)
        if found.is_enough:
            enough, high = found, middle
        else:
            too_little, low = found, middle
    return enough


def _levels(fewest: int, dense: int) -> Iterator[int]:
    """Values per sample from ``fewest`` to ``dense``, each ``ROOM`` times those before."""
    values = fewest
    while values < dense:
        yield values
        # From nothing, to what ``least_values`` tries first between nothing and everything.
        values = min(ROOM * values or round(math.sqrt(dense)), dense)
    yield dense
