"""Candidates take turns, so that other work on the machine slows all of them alike.

A *turn* is a function.  It calls its candidate several times in a row, first without and then with the clock,
and returns the seconds of each timed call, the same numbers on all ranks.  A turn begins with rest: thread
pools spin for a while after their work, and would take a core from the next candidate.  The calls without the
clock bring the candidate's own data back into the caches and its threads onto cores of their own: threads
that wake on one core wait for each other until the scheduler moves one of them, some ticks (4 ms) later.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.mpi.agreement import collectively

if TYPE_CHECKING:
    from mpi4py import MPI

# A call that is timed.
Action = Callable[[], object]
Turn = Callable[[int, int], np.ndarray]
# Makes a block in which a candidate has its threads and cores.
Conditions = Callable[[], AbstractContextManager]

REPEATS = 100
# Calls in one turn; of a call that takes longer than SLOW seconds only one.
IN_A_ROW, SLOW = 10, 0.05
# Before them, calls for so many seconds, at least one.
SETTLING = 0.05
# A process rests when its threads together compute less than IDLE of a PAUSE (seconds).
PAUSE, IDLE, LONGEST_REST = 1e-3, 0.1, 1.0


@dataclass(frozen=True)
class Spread:
    """The times of a candidate's calls.

    Attributes:
        median, p10, p90: microseconds.
        repeats: how many calls were timed.
    """

    median: float
    p10: float
    p90: float
    repeats: int

    @classmethod
    def of(cls, seconds: np.ndarray) -> Spread:
        """Summarise ``seconds``, (repeats,)."""
        median, p10, p90 = (1e6 * np.percentile(seconds, (50, 10, 90))).tolist()
        return cls(median, p10, p90, seconds.size)

    def divided(self, number: int) -> Spread:
        """The times of one of ``number`` things that a call does."""
        return Spread(self.median / number, self.p10 / number, self.p90 / number, self.repeats)

    def as_dict(self) -> dict:
        """The attributes, for JSON."""
        return asdict(self)


def in_turns(turns: dict[str, Turn], repeats: int = REPEATS) -> dict[str, Spread]:
    """Time all candidates within one loop, after a warm-up.

    Args:
        turns: by the names of the candidates; the same names on all ranks.
        repeats: timed calls of each candidate; a tenth of them where a call takes longer than SLOW.
    """
    rounds = math.ceil(repeats / IN_A_ROW)
    most = math.ceil(repeats / rounds)
    call_seconds = {name: _pilot(turn) for name, turn in turns.items()}
    calls = {
        name: (math.ceil(SETTLING / seconds), most if seconds <= SLOW else 1)
        for name, seconds in call_seconds.items()
    }
    times = [{name: turn(*calls[name]) for name, turn in turns.items()} for _ in range(rounds)]
    return {
        name: Spread.of(np.concatenate([times_of_round[name] for times_of_round in times])) for name in turns
    }


def alone(action: Action, conditions: Conditions = nullcontext) -> Turn:
    """The turn of a candidate that is one process.

    Args:
        action: the candidate.
        conditions: a block in which it is called, for instance with more threads.
    """

    def turn(untimed: int, timed: int) -> np.ndarray:
        rest()
        with conditions():
            _repeat(action, untimed)
            return np.array([_seconds(action) for _ in range(timed)])

    return turn


def on_root(action: Action, comm: MPI.Comm, conditions: Conditions = nullcontext) -> Turn:
    """The turn of a candidate that is one process, on the root, while the other ranks sleep.

    Args:
        action: the candidate, on the root; not used elsewhere.
        comm: of the job.
        conditions: as of ``alone``.
    """

    def turn(untimed: int, timed: int) -> np.ndarray:
        times = np.empty(timed)
        with collectively(comm):
            if comm.rank == 0:
                times[:] = alone(action, conditions)(untimed, timed)
        comm.Bcast(times, root=0)
        return times

    return turn


def together(action: Action, comm: MPI.Comm, barrier: Action) -> Turn:
    """The turn of a candidate that is all ranks: a barrier before each call, the time of the slowest rank.

    Args:
        action: this rank's part.
        comm: of the job.
        barrier: of the candidate's own library.
    """

    def turn(untimed: int, timed: int) -> np.ndarray:
        rest()
        times = np.empty(timed)
        _repeat(action, untimed)
        for index in range(timed):
            barrier()
            times[index] = _seconds(action)
        slowest = np.empty_like(times)
        comm.Allreduce(times, slowest, max_operation())
        return slowest

    return turn


def rest() -> None:
    """Sleep until no other thread of this process computes."""
    ends = time.monotonic() + LONGEST_REST
    while time.monotonic() < ends:
        began = time.process_time()
        time.sleep(PAUSE)
        if time.process_time() - began < IDLE * PAUSE:
            return


def max_operation() -> MPI.Op:
    """MPI's maximum; scripts that measure one process do without MPI."""
    from mpi4py import MPI

    return MPI.MAX


def _pilot(turn: Turn) -> float:
    """About how many seconds a call takes."""
    first = turn(0, 1)[0]
    return first if first > 2 * SLOW else turn(1, 2).min()


def _repeat(action: Action, times: int) -> None:
    for _ in range(times):
        action()


def _seconds(action: Action) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
