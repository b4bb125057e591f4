"""Which way to carry exchanges is the fastest: measured with the program itself, on this machine, now."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from mpi4py import MPI

from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import FieldError
from repurpose_hpc.runtime.exchange.transports.table import CARRIERS, DEFAULT_WAY, SHARED, SPARSE, available
from repurpose_hpc.runtime.program import Program
from repurpose_hpc.runtime.timing import measure

AUTO = "auto"
WAYS = (*CARRIERS, AUTO)
# Forwards that are timed for each way.
REPEATS = 7


def check_way(way: str, comm: MPI.Comm) -> None:
    """Refuse what this MPI, or these ranks, cannot do; collective.

    Raises:
        UserError: on all ranks: MPI has no such collective, or the ranks are not on one node.
    """
    if way in (AUTO, DEFAULT_WAY):
        return
    ways = available(comm)
    if way not in ways:
        why = "the ranks are on several nodes" if way == SHARED else "this MPI does not have it"
        usable = ", ".join((*ways, AUTO))
        raise FieldError("transport", f"expected one of {usable}, got {way}: {why}; choose one of these")


def may_leave_out_zeros(way: str) -> bool:
    """Whether it takes the kernels for that."""
    return way in (SPARSE, AUTO)


def choose_way(program: Program, way: str, x: np.ndarray | None, comm: MPI.Comm) -> dict[str, float]:
    """Let ``program`` carry its exchanges as ``way`` says; collective.

    With AUTO every way is tried, and the one with the lowest median of the slowest rank's times is
    taken, by all ranks alike.

    Args:
        program: this rank's.
        way: one of WAYS.
        x: a batch to try them on, (input neurons, batch), for AUTO only; a real one, as SPARSE depends on
            the numbers.
        comm: of the program.

    Raises:
        UserError: on all ranks: there is no memory for the way that was asked for.

    Returns:
        microseconds by way if any were tried, on every rank; one rank has nothing to choose.
    """
    if way != AUTO or comm.size == 1:
        program.way = DEFAULT_WAY if way == AUTO else way
        return {}
    times = {}
    for name in available(comm):
        # Where memory is short the others are left, and all ranks alike find that out.
        with suppress(UserError):
            program.way = name
            timing = measure(program, x, REPEATS, comm)
            times[name] = comm.bcast(timing and timing.latency_us()["median"], root=0)
    program.way = min(times, key=times.__getitem__)
    return times
