"""The ranks (or threads) that restructure together: the one module here that communicates.

Every rank runs the same program on the same data.  Where there are many tasks, task t is done by rank
t mod R; ``map`` then gathers all results on all ranks, in the order of the tasks.  What a task
computes does not depend on who computes it, so neither does the plan: same bits for every R.

A rank that has finished its share sleeps until the others have, so that more ranks than cores do no
harm.  If a task fails, every rank raises the failure of the lowest such rank.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from mpi4py import MPI

Task = TypeVar("Task")
Result = TypeVar("Result")


class Team:
    """A communicator's ranks, or the threads of a process that is alone.

    Args:
        comm: whose ranks all call every method in the same order; None: there are no others.
        threads: that share the tasks of this process.
    """

    def __init__(self, comm: MPI.Comm | None = None, threads: int = 1) -> None:
        self.rank, self.ranks = (comm.rank, comm.size) if comm is not None else (0, 1)
        # None for a single rank, which has nobody to talk to.
        self.comm = _with_arrays_uncopied(comm) if comm is not None and comm.size > 1 else None
        self.threads = threads

    @property
    def size(self) -> int:
        """Number of tasks that are worked on at a time."""
        return self.ranks * self.threads

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
        """``function`` of every task, in order, on every rank; collective."""
        results, failure = self._attempt(function, tasks)
        self._raise_together(failure)
        if self.comm is None:
            return results
        shares = self.comm.allgather(results)
        return [shares[t % self.ranks][t // self.ranks] for t in range(len(tasks))]

    def apply(self, function: Callable[[Task], object], tasks: Sequence[Task]) -> None:
        """Do this rank's share of the tasks, the same as ``map`` would give it; nothing is sent.

        For tasks that cannot fail: nobody else would learn of it.
        """
        self._work(function, tasks)

    def in_batches(self, tasks: Iterator[Task]) -> Iterator[list[Task]]:
        """The tasks, as many at a time as can be worked on at a time."""
        while batch := list(islice(tasks, self.size)):
            yield batch

    def _attempt(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> tuple[list[Result], Exception | None]:
        try:
            return self._work(function, tasks), None
        except Exception as error:
            return [], error

    def _work(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
        own_tasks = tasks[self.rank :: self.ranks]
        if self.threads == 1 or len(own_tasks) < 2:
            return [function(task) for task in own_tasks]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(function, own_tasks))

    def _raise_together(self, failure: Exception | None) -> None:
        if self.comm is not None:
            failures = _gather_failures(self.comm, failure)
            failure = next((rank_failure for rank_failure in failures if rank_failure is not None), None)
        if failure is not None:
            raise failure


def _gather_failures(comm: MPI.Comm, failure: Exception | None) -> list[Exception | None]:
    """The failure of every rank; sleeps until all have arrived."""
    request, pause = comm.Ibarrier(), 1e-5
    while not request.Test():
        time.sleep(pause)
        pause = min(1.5 * pause, 0.002)
    return comm.allgather(failure)


def _with_arrays_uncopied(comm: MPI.Comm) -> MPI.Comm:
    """The same communicator, whose collectives send arrays inside objects without pickling them."""
    from mpi4py.util import pkl5

    return pkl5.Intracomm(comm)


ALONE = Team()
