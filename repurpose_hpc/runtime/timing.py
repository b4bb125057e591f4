"""Times of a forward pass, as the slowest rank sees them.

Ranks meet at a barrier before each forward; at the end every rank sends its times to the root.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.runtime.calls import PHASES

if TYPE_CHECKING:
    from mpi4py import MPI

    from repurpose_hpc.runtime.program import Program


@dataclass(frozen=True, eq=False)
class Timing:
    """Repeated forwards of one batch.

    Attributes:
        latency: seconds of each repeat, the maximum over the ranks; (repeat,) float64.
        phases: seconds of each repeat in each of ``PHASES`` on the rank that was the
            slowest; (repeat, 4) float64.
    """

    latency: np.ndarray
    phases: np.ndarray

    def latency_us(self) -> dict[str, float]:
        """Median, 10th and 90th percentile, in microseconds."""
        median, p10, p90 = 1e6 * np.percentile(self.latency, (50, 10, 90))
        return {"median": float(median), "p10": float(p10), "p90": float(p90)}

    def phases_us(self) -> dict[str, float]:
        """Medians of the phases, in microseconds."""
        return dict(zip(PHASES, (1e6 * np.median(self.phases, axis=0)).tolist(), strict=True))


def measure(program: Program, x: np.ndarray, repeat: int, comm: MPI.Comm) -> Timing | None:
    """Time ``repeat`` forwards of one batch, after one that is not counted; collective.

    Args:
        program: this rank's.
        x: its inputs, (input neurons, batch).
        repeat: 1 or more.
        comm: all ranks of the program.

    Returns:
        the timing on the root, None elsewhere.
    """
    seconds = comm.gather(_time(program, x, repeat, comm.Barrier), root=0)
    return None if seconds is None else _slowest(seconds)


def measure_alone(program: Program, x: np.ndarray, repeat: int) -> Timing:
    """Time ``repeat`` forwards of a program that is one process, after one that is not counted."""
    return _slowest([_time(program, x, repeat, lambda: None)])


def _time(program: Program, x: np.ndarray, repeat: int, meet: Callable[[], object]) -> np.ndarray:
    """Seconds of each forward, and of each phase in it, (repeat, 1 + phases)."""
    program.forward(x)
    seconds = np.empty((repeat, 1 + len(PHASES)))
    for row in seconds:
        program.reset()
        meet()
        began = time.perf_counter()
        program.forward(x)
        row[0] = time.perf_counter() - began
        row[1:] = [program.seconds[phase] for phase in PHASES]
    program.reset()
    return seconds


def empty_exchange_us(comm: MPI.Comm, repeat: int = 50) -> float:
    """Microseconds of an all-to-all exchange in which nobody sends anything, the median; collective."""
    counts, no_values = np.zeros(comm.size, np.int64), np.empty(0, np.float32)
    seconds = np.empty(repeat)
    for number in range(-1, repeat):  # the first opens the connections
        comm.Barrier()
        began = time.perf_counter()
        comm.Alltoallv((no_values, counts), (no_values, counts))
        seconds[number] = time.perf_counter() - began
    return 1e6 * float(np.median(seconds))


def _slowest(ranks: Sequence[np.ndarray]) -> Timing:
    """The timing by the slowest rank of each forward, of the seconds of all ranks."""
    seconds = np.stack(ranks)
    slowest = seconds[:, :, 0].argmax(axis=0)
    of_slowest = seconds[slowest, np.arange(seconds.shape[1])]
    return Timing(of_slowest[:, 0], of_slowest[:, 1:])
