"""Choosing a transport: the fastest, measured with the program itself.

Every rank times every transport that there is.  The root tells all the median of the slowest rank's times, so
that all choose the same.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import FieldError
from repurpose_hpc.runtime.exchange.transport import TRANSPORTS
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT, available
from repurpose_hpc.runtime.timing import measure

if TYPE_CHECKING:
    from mpi4py import MPI

    from repurpose_hpc.runtime.program import Program

AUTO = "auto"
# The choices of --exchange.
TRANSPORT_CHOICES = (*TRANSPORTS, AUTO)
# Forwards that are timed for each transport.
REPEATS = 7


def check_named(name: str) -> None:
    """Refuse a name that no transport has.

    Raises:
        FieldError: it is none of ``TRANSPORTS``.
    """
    if name not in TRANSPORTS:
        expected = ", ".join(TRANSPORTS)
        raise FieldError("transport", f"expected one of {expected}, got {name}; name one of them")


def check_transport(name: str, comm: MPI.Comm) -> None:
    """Refuse a transport that this MPI, or these ranks, do not have; collective.

    Raises:
        FieldError: on all ranks: MPI has no such collective, or the ranks are not on one node.
    """
    if name in (AUTO, DEFAULT_TRANSPORT):
        return
    names = available(comm)
    if name not in names:
        usable = ", ".join((*names, AUTO))
        raise FieldError(
            "transport",
            f"expected one of {usable}, got {name}: {TRANSPORTS[name].absence}; choose one of these",
        )


def choose_transport(
    program: Program, transport: str, x: np.ndarray | None, comm: MPI.Comm
) -> dict[str, float]:
    """Let ``program`` carry its exchanges as ``transport`` says; collective.

    With AUTO every transport is tried, and the one with the lowest median of the slowest rank's times is
    taken, by all ranks alike.

    Args:
        program: this rank's.
        transport: one of TRANSPORT_CHOICES.
        x: a batch to try them on, (input neurons, batch); a real one, as what is sent may depend on the
            numbers; None, on all ranks, unless ``transport`` is AUTO.
        comm: of the program.

    Raises:
        UserError: on all ranks: there is no memory for the transport that was asked for.

    Returns:
        microseconds by transport if any were tried, on every rank; one rank has nothing to choose.
    """
    if transport != AUTO or comm.size == 1 or x is None:
        program.use_transport(DEFAULT_TRANSPORT if transport == AUTO else transport)
        return {}
    times = {}
    for name in available(comm):
        # Where memory is short the others are left, and all ranks alike find that out.
        with suppress(UserError):
            program.use_transport(name)
            timing = measure(program, x, REPEATS, comm)
            times[name] = comm.bcast(timing and timing.latency_us()["median"], root=0)
    program.use_transport(min(times, key=times.__getitem__))
    return times
