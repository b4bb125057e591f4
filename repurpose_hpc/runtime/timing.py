"""How long a forward pass takes, as the slowest rank sees it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mpi4py import MPI

    from repurpose_hpc.runtime.program import Program

PHASES = ("compute", "pack", "exchange", "wait")


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
    """Time ``repeat`` forwards of one batch, after one that is not counted; a barrier before each.

    Args:
        program: this rank's.
        x: its inputs, (input neurons, batch).
        repeat: 1 or more.
        comm: all ranks of the program; collective.

    Returns:
        the timing on the root, None elsewhere.
    """
    program.forward(x)
    seconds = np.empty((repeat, 1 + len(PHASES)))
    for row in seconds:
        program.reset()
        comm.Barrier()
        began = time.perf_counter()
        program.forward(x)
        row[0] = time.perf_counter() - began
        row[1:] = [program.seconds[phase] for phase in PHASES]
    program.reset()
    return _slowest(comm.gather(seconds, root=0))


def empty_exchange_us(comm: MPI.Comm, repeat: int = 50) -> float:
    """Microseconds of an all-to-all exchange in which nobody sends anything, the median; collective."""
    counts, nothing = np.zeros(comm.size, np.int64), np.empty(0, np.float32)
    seconds = np.empty(repeat)
    for each in range(-1, repeat):  # the first opens the connections
        comm.Barrier()
        began = time.perf_counter()
        comm.Alltoallv((nothing, counts), (nothing, counts))
        seconds[each] = time.perf_counter() - began
    return 1e6 * float(np.median(seconds))


def _slowest(ranks: list[np.ndarray] | None) -> Timing | None:
    if ranks is None:
        return None
    seconds = np.stack(ranks)
    slowest = seconds[:, :, 0].argmax(axis=0)
    chosen = seconds[slowest, np.arange(seconds.shape[1])]
    return Timing(chosen[:, 0], chosen[:, 1:])
