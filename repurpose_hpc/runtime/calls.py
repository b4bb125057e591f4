"""Calls: a program is a list of them for each batch size.

A *call* is (phase, function, arguments) on arrays that do not change, so that running it is one short loop.
A *label* says what a call is for, where its time is shown by itself (see ``recorder``).
This module imports nothing of the package: steps, exchanges and schedules all build on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

# Times are counted for these, in this order.
PHASES = ("compute", "pack", "exchange", "wait")
COMPUTE, PACK, EXCHANGE, WAIT = PHASES

# In traces what is packed is told from what has come and is unpacked; both are counted as "pack".
UNPACK = "unpack"

Call = tuple[str, Callable[..., object], tuple]


class Traffic(NamedTuple):
    """What a rank sends, or receives, in one exchange of a part of a batch.

    Attributes:
        exchange: its number in the schedule, the same on all ranks.
        bytes: of all messages together; zeros as well, even if the transport leaves them out.
        values: that are sent.
        sent: ranks that get something, among those of the program.
        received: ranks that something comes from.
    """

    exchange: int
    bytes: int
    values: int = 0
    sent: tuple[int, ...] = ()
    received: tuple[int, ...] = ()


class Label(NamedTuple):
    """What a call is for.

    Attributes:
        layer: names of the operations, separated by commas where one exchange is for several.
        category: one of ``PHASES``, or ``UNPACK``.
        call: name of the function.
        part: number of the part of the batch.
        traffic: of a call that sends or waits; None: of others.
    """

    layer: str
    category: str
    call: str
    part: int
    traffic: Traffic | None = None


Labelled = tuple[Label, Call]


def name_of(function: Callable[..., object]) -> str:
    """The name of what a call calls."""
    return str(getattr(function, "name", None) or getattr(function, "__name__", "call"))


def labelled(
    calls: Iterable[Call], layer: str, part: int, arrived: bool = False, traffic: Traffic | None = None
) -> list[Labelled]:
    """Calls with their labels.

    Args:
        calls: in order.
        layer, part: see ``Label``.
        arrived: whether rows that are moved are those that came from other ranks.
        traffic: of those that send or wait.
    """
    return [
        (
            Label(
                layer,
                UNPACK if arrived and phase == PACK else phase,
                name_of(function),
                part,
                traffic if phase in (EXCHANGE, WAIT) else None,
            ),
            (phase, function, arguments),
        )
        for phase, function, arguments in calls
    ]
