"""Clocks of the ranks: how far each is from that of the root.

The root asks one rank after the other: it sends a byte, and the rank sends back what its clock says.  That
was between the root's own two readings.  So the middle of these is wrong by half the round trip at most,
however unevenly the two ways share it, and the shortest of several round trips counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from mpi4py import MPI

# Round trips with each rank, at most; fewer where they take longer than so many seconds together.
ROUND_TRIPS, LONGEST = 100, 0.05
_ASK, _END, _TAG = b"\1", b"\0", 7


class Reading(NamedTuple):
    """One reading of a rank's clock.

    Attributes:
        at: when, by the clock of the root, seconds.
        offset: what the rank's clock was ahead of it, seconds.
        error: of the offset at most, seconds.
    """

    at: float
    offset: float
    error: float


class Alignment(NamedTuple):
    """Two readings of a rank's clock, before and after what is timed."""

    before: Reading
    after: Reading

    def by_root(self, times: np.ndarray) -> np.ndarray:
        """Times of the rank's clock by that of the root, (n,) float64.

        A drift that may be nothing but errors is none, as it would stretch times: the better reading counts.
        Otherwise the offset changes evenly between the readings, and not at all outside.
        """
        if abs(self.drift) <= self.before.error + self.after.error:
            return times - min(self, key=lambda reading: reading.error).offset
        readings = [reading.at + reading.offset for reading in self]
        return times - np.interp(times, readings, [reading.offset for reading in self])

    @property
    def drift(self) -> float:
        """Change of the offset between the readings, seconds."""
        return self.after.offset - self.before.offset

    @property
    def bound(self) -> float:
        """Error of aligned times at most, seconds: that of the worse reading, and all of the drift."""
        return max(self.before.error, self.after.error) + abs(self.drift)


def read_clocks(comm: MPI.Comm, now: Callable[[], float]) -> list[Reading]:
    """On the root one reading of the clock of each rank, none elsewhere; collective.

    Args:
        comm: of the ranks.
        now: this rank's clock, seconds.
    """
    if comm.rank:
        _answer(comm, now)
        return []
    return [Reading(now(), 0.0, 0.0), *(_ask(comm, rank, now) for rank in range(1, comm.size))]


def _ask(comm: MPI.Comm, rank: int, now: Callable[[], float]) -> Reading:
    readings: list[Reading] = []
    answer, began = np.empty(1), now()
    while len(readings) < ROUND_TRIPS and (not readings or now() - began < LONGEST):
        asked = now()
        comm.Send(_ASK, rank, _TAG)
        comm.Recv(answer, rank, _TAG)
        answered = now()
        middle = (asked + answered) / 2
        readings.append(Reading(middle, float(answer[0]) - middle, (answered - asked) / 2))
    comm.Send(_END, rank, _TAG)
    return min(readings, key=lambda reading: reading.error)


def _answer(comm: MPI.Comm, now: Callable[[], float]) -> None:
    """What ``_ask`` asks for, until it ends."""
    question, answer = bytearray(1), np.empty(1)
    comm.Recv(question, 0, _TAG)
    while question == _ASK:
        answer[0] = now()
        comm.Send(answer, 0, _TAG)
        comm.Recv(question, 0, _TAG)
