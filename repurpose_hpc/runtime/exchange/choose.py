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
from repurpose_hpc.mpi.agreement import agreed
from repurpose_hpc.mpi.groups import Groups
from repurpose_hpc.runtime.exchange.transport import TRANSPORTS
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT, available
from repurpose_hpc.runtime.timing import measure

if TYPE_CHECKING:
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


def check_transport(name: str, groups: Groups) -> None:
    """Refuse a transport that this MPI, or the ranks of a group, do not have; collective.

    Raises:
        FieldError: on all ranks: MPI has no such collective, or the ranks of a group are not on one node.
    """
    if name in (AUTO, DEFAULT_TRANSPORT) or groups.inside is None:
        return
    names = _available(groups)
    if name not in names:
        usable = ", ".join((*names, AUTO))
        raise FieldError(
            "transport",
            f"expected one of {usable}, got {name}: {TRANSPORTS[name].absence}; choose one of these",
        )


def _available(groups: Groups) -> list[str]:
    """The transports that all groups have; collective, the same on all ranks."""
    assert groups.inside is not None
    names = available(groups.inside)
    if groups.across is None:
        return names
    others = groups.across.allgather(names)
    return [name for name in names if all(name in of_group for of_group in others)]


def choose_transport(
    program: Program, transport: str, x: np.ndarray | None, groups: Groups
) -> dict[str, float]:
    """Let ``program`` carry its exchanges as ``transport`` says; collective.

    With AUTO every transport is tried, and the one with the lowest median of the slowest rank's times is
    taken, by all ranks of all groups alike.

    Args:
        program: this rank's.
        transport: one of TRANSPORT_CHOICES.
        x: a batch to try them on, (input neurons, batch); a real one, as what is sent may depend on the
            numbers; None, on all ranks, unless ``transport`` is AUTO.
        groups: that run the program.

    Raises:
        UserError: on all ranks: there is no memory for the transport that was asked for.

    Returns:
        microseconds by transport if any were tried, on every rank; one rank has nothing to choose.
    """
    comm, inside = groups.everybody, groups.inside
    if transport != AUTO or comm is None or inside is None or inside.size == 1 or x is None:
        _use(program, DEFAULT_TRANSPORT if transport == AUTO else transport, groups)
        return {}
    times = {}
    for name in _available(groups):
        # Where memory is short the others are left, and all ranks alike find that out.
        with suppress(UserError):
            _use(program, name, groups)
            timing = measure(program, x, REPEATS, comm)
            times[name] = comm.bcast(timing and timing.latency_us()["median"], root=0)
    _use(program, min(times, key=times.__getitem__), groups)
    return times


def _use(program: Program, transport: str, groups: Groups) -> None:
    """Let all groups use a transport; collective.

    Raises:
        UserError: on all ranks: it lacks something in one of the groups.
    """
    with agreed(groups.everybody if groups.count > 1 else None):
        program.use_transport(transport)
