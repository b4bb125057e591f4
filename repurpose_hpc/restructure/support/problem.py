"""One mixing as a problem of least squares under prices: what steps 2 and 3 work on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.restructure.calibration.moments import Moments
from repurpose_hpc.restructure.support.elimination import METRIC_TOLERANCE, columns, metric_root
from repurpose_hpc.restructure.team import Team

# λ hardly ever falls below this share of what it was expected to be.
PRICE_FALL = 0.5


@dataclass(frozen=True, eq=False)
class MixingProblem:
    """One mixing, ready for steps 2 and 3.  Masks and owners are of neurons, not of columns.

    Attributes:
        moments: its least-squares problem, in which errors are judged.
        metric: M, (m, m).
        source_owner: owners of the source space, (n,) int32.
        ghost_costs: of sending one source neuron from worker p to q, (P, P).
        sum_costs: of sending one partial sum from p to q, (P, P).
        most_ghosts: the most ghosts that each worker may be given, from its number of rows: int -> (P,).
        only_ghosts: partial sums are out of the question.
        relays: relays may be sent.
        silent: nothing may be sent.
        least_price: relays that avoid less for each value are not looked for.
        team: shares the work.
        taps: k, columns of each source neuron in ``moments``.
        received: the ghosts that every worker is sent anyhow, for another mixing, bool (P, n); None: none.
        metric_tolerance: share of the metric that may be dropped.
        links: rows and the neurons that they may depend on at all, bool (m, n); None: all on all.  Others are
            those of other groups of a grouped convolution, or holes of a sparse layer, which are not filled.
    """

    moments: Moments
    metric: np.ndarray
    source_owner: np.ndarray
    ghost_costs: np.ndarray
    sum_costs: np.ndarray
    most_ghosts: Callable[[np.ndarray], np.ndarray]
    only_ghosts: bool
    team: Team
    taps: int = 1
    received: np.ndarray | None = None
    links: np.ndarray | None = None
    relays: bool = False
    silent: bool = False
    least_price: float = 0.0
    metric_tolerance: float = METRIC_TOLERANCE

    @property
    def workers(self) -> int:
        """P."""
        return len(self.ghost_costs)

    def own(self) -> np.ndarray:
        """The neurons that each worker has without receiving ghosts for this mixing, bool (P, n)."""
        workers = np.arange(self.workers)[:, None]
        own = (self.source_owner == workers) | (self.source_owner == EVERYBODY)
        return own if self.received is None else own | self.received

    def linked(self, rows: np.ndarray) -> np.ndarray:
        """The neurons on which any of ``rows`` may depend, bool (n,)."""
        if self.links is None:
            return np.ones(self.source_owner.size, bool)
        return self.links[rows].any(axis=0)

    def metric_root(self, rows: np.ndarray) -> np.ndarray:
        """The root of the metric of some rows, (k, r); see ``elimination.metric_root``."""
        return metric_root(self.metric[np.ix_(rows, rows)], self.metric_tolerance)

    def columns(self, mask: np.ndarray) -> np.ndarray:
        """A mask of source neurons, bool (..., n), as one of columns of ``moments``, (..., n k)."""
        return columns(mask, self.taps)

    def at_least(self, expected_price: float) -> MixingProblem:
        """The problem without what will hardly be paid for at such a λ."""
        return replace(self, least_price=PRICE_FALL * expected_price)

    def with_most_ghosts(self, count: int) -> MixingProblem:
        """The problem in which no worker may be given more than ``count`` ghosts."""
        return replace(self, most_ghosts=lambda rows: np.minimum(self.most_ghosts(rows), count))

    def unfolded(self) -> MixingProblem:
        """The problem behind the window: every column is a neuron, and is sent as often as a sum is.

        Ghosts of it cannot be sent, but combinations of a worker's neurons can.
        """
        ratio = self.ghost_costs.max() / self.sum_costs.max() if self.workers > 1 else 1.0

        def most(rows: np.ndarray) -> np.ndarray:
            return np.ceil(self.most_ghosts(rows) * ratio).astype(np.int64)

        return replace(
            self,
            source_owner=np.repeat(self.source_owner, self.taps),
            ghost_costs=self.sum_costs,
            most_ghosts=most,
            taps=1,
            received=None if self.received is None else self.columns(self.received),
            links=None if self.links is None else self.columns(self.links),
        )
