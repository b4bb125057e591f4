"""A record of what every rank does and when, call by call, for a trace.

Compiled code notes the times of the calls that it makes (``kernels.replay``), in a variant of its loop that
is only used here.  The first batches are recorded, so many that all ranks together have a bounded number of
calls; after that a forward is as it always is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from repurpose_hpc.kernels import compile_noting
from repurpose_hpc.mpi.clocks import Alignment, Reading, read_clocks
from repurpose_hpc.runtime.calls import Label

if TYPE_CHECKING:
    from mpi4py import MPI

    from repurpose_hpc.runtime.program import Program
    from repurpose_hpc.runtime.schedule.schedule import Schedule

# Calls and messages of all ranks together, but for those of many ranks: a file of about 30 MB, which viewers
# open in seconds.
MOST_MARKS, LEAST_MARKS = 200_000, 2_000


class Forward(NamedTuple):
    """One batch through the network.

    Attributes:
        labels: of the calls, in order.
        times: at which each call began and ended, (calls, 2) float64.
        samples: of the batch.
        began, ended: the forward, with the copying of inputs and outputs.
    """

    labels: Sequence[Label]
    times: np.ndarray
    samples: int
    began: float
    ended: float


class Span(NamedTuple):
    """Something outside of the forwards."""

    name: str
    began: float
    ended: float


class Record(NamedTuple):
    """What one rank did.  Times are by its own clock, in seconds.

    Attributes:
        workers: that it hosts.
        first: rank of the job that is rank 0 of its group.
        forwards: recorded, in order.
        spans: outside of these.
        left_out: forwards that were not recorded.
    """

    workers: Sequence[int]
    first: int
    forwards: list[Forward]
    spans: list[Span]
    left_out: int


class Trace(NamedTuple):
    """The records of all ranks, and how their clocks are aligned with that of the root."""

    records: list[Record]
    alignments: list[Alignment]


class Recorder:
    """Records what this rank does.

    *Collective* are ``begin`` and ``end``.  After that ``trace`` is, on the root, what all ranks have done.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        """Nothing is recorded yet but spans; what records times is compiled, or loaded from the cache.

        Args:
            comm: of the job.
        """
        from mpi4py import MPI

        compile_noting()
        self._comm, self._now, self._left_out = comm, MPI.Wtime, 0
        self._room = max(MOST_MARKS // comm.size, LEAST_MARKS)
        # All of it is written to, so that the system has given it before anything is timed.
        self._times, self._used = np.full((self._room, 2), np.nan), 0
        self._forwards: list[tuple[Sequence[Label], int, int, float, float]] = []  # with a row, not all times
        self._spans: list[Span] = []
        self._before: list[Reading] = []
        self.trace: Trace | None = None

    def begin(self, program: Program) -> None:
        """Read the clocks, and record the forwards of a program from now on; collective."""
        self._before = read_clocks(self._comm, self._now)
        program.recorder = self

    def run(self, schedule: Schedule, X: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """``schedule.run``, recorded while there is room."""
        if schedule.marks > self._room:
            self._room, self._left_out = -1, self._left_out + 1
            return schedule.run(X, seconds)
        labels, first = schedule.labels, self._used
        self._used, self._room = first + len(labels), self._room - schedule.marks
        began = self._now()
        outputs = schedule.run(X, seconds, self._times, first)
        self._forwards.append((labels, first, X.shape[1], began, self._now()))
        return outputs

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """A block that is recorded, unless forwards have been left out already."""
        began = self._now()
        try:
            yield
        finally:
            if not self._left_out:
                self._spans.append(Span(name, began, self._now()))

    def end(self, program: Program) -> None:
        """Read the clocks again, and bring all records together on the root; collective.

        Of every rank the same number of forwards is kept, if any had no room for all.
        """
        from mpi4py import MPI

        program.recorder = None
        after = read_clocks(self._comm, self._now)
        recorded = len(self._forwards)
        unlimited = self._comm.allreduce(recorded, MPI.MAX)
        kept = min(recorded, self._comm.allreduce(recorded if self._left_out else unlimited, MPI.MIN))
        first, left_out = self._comm.rank - program.rank, self._left_out + recorded - kept
        forwards = [
            Forward(labels, self._times[row : row + len(labels)], samples, began, ended)
            for labels, row, samples, began, ended in self._forwards[:kept]
        ]
        record = Record(program.workers, first, forwards, self._spans, left_out)
        records = self._comm.gather(record, root=0)
        if records is not None:
            alignments = [Alignment(*pair) for pair in zip(self._before, after, strict=True)]
            self.trace = Trace(records, alignments)
