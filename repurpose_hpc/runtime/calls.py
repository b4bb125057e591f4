"""Calls: a program is a list of them for each batch size.

A *call* is (phase, function, arguments) on arrays that do not change, so that running it is one short loop.
This module imports nothing of the package: steps, exchanges and schedules all build on it.
"""

from __future__ import annotations

from collections.abc import Callable

# Times are counted for these, in this order.
PHASES = ("compute", "pack", "exchange", "wait")
COMPUTE, PACK, EXCHANGE, WAIT = PHASES

Call = tuple[str, Callable[..., object], tuple]
