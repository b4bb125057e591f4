"""How evenly ranks computed, and the part weights with which they would have.

What a run shows of rates is what happened while ranks computed.  A core that other programs share is taken
away while its rank waits, too, and then given back at once when it computes: such a rank seems faster than it
is with more to do.  ``probe`` measures it with nothing to wait for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from repurpose_hpc.runtime.hosting import hosted_workers

# Of part weights; the rates that they follow from are known no better.
DIGITS = 3


class BalanceReport(TypedDict, total=False):
    """Computing of the ranks; empty if their rates do not follow from it."""

    compute_seconds: list[float]
    compute_imbalance: float
    suggested_part_weights: list[float]


def part_weights(rates: Sequence[float], workers: int) -> tuple[float, ...]:
    """Part weights of the workers, such that ranks of these rates compute equally long.

    Workers of a rank share its rate evenly.

    Args:
        rates: of the ranks, in any unit, each 0 or more, not all 0.
        workers: that they host, as ``hosted_workers`` says.

    Returns:
        a number for each worker, 1 for the fastest, rounded to ``DIGITS``.

    Raises:
        UserError: there are more ranks than workers.
    """
    hosted = [len(hosted_workers(workers, len(rates), rank)) for rank in range(len(rates))]
    speeds = np.repeat(np.array(rates, float) / hosted, hosted)
    return tuple(float(f"{speed:.{DIGITS}g}") for speed in speeds / speeds.max())


def balance(
    seconds: Sequence[float], multiply_adds: Sequence[int], workers: int, groups: int = 1
) -> BalanceReport:
    """The imbalance of a run, and the part weights that would have avoided it.

    A rank's rate is its load over its time.  A rank without load has shown none; its workers keep
    the part weight 0.

    Args:
        seconds: that each rank computed, without waiting.
        multiply_adds: load of each rank.
        workers: of the plan.
        groups: of ranks in a row that host all workers each; a worker's rate is that in all of them together.
    """
    of_ranks = np.array(seconds, float)
    times = of_ranks.reshape(groups, -1).sum(axis=0)
    load = np.array(multiply_adds, float)[: times.size]
    if not load.any() or (times[load > 0] <= 0).any():
        return {}
    rates = np.divide(load, times, out=np.zeros_like(load), where=load > 0)
    return {
        "compute_seconds": of_ranks.tolist(),
        "compute_imbalance": float(of_ranks.max() / of_ranks.mean()),
        "suggested_part_weights": list(part_weights(rates.tolist(), workers)),
    }
