"""Blocks of memory handed from one process to another through memory that both see.

Every block has a flag, an int64 in a cache line of its own: 0 while the sender owns the block, 1 while the
receiver does.  Whoever owns the block sets the flag when done with it.  Setting it releases, and reading it
acquires: what was written to the block before is seen by whoever finds the flag changed.  Processes and
blocks are known by their addresses.

Whoever waits long offers the core to others, for there may be more ranks than cores, and makes the call
``idle``: an int64 array of the address of a C function, the number of its signature, and its arguments (see
``llvm.addresses.call_function``).
"""

from __future__ import annotations

import numpy as np

from ..arguments import INTEGERS, Array
from ..jit import jit
from ..llvm.addresses import call_function, copy_bytes
from ..llvm.atomics import load_acquire, store_release, yield_core
from ..registry import Need, kernel

SENDERS, RECEIVERS = 0, 1
# Looks at a flag, a nanosecond or two each, before others get the core.
LOOKS = 400

_LIST, _ROWS = Array(INTEGERS, 1), Array(INTEGERS, 2)


@kernel(arguments={"flags": _LIST, "idle": _LIST}, need=Need.NONE, replayed=True)
def await_read(flags: np.ndarray, idle: np.ndarray) -> None:
    """Wait until all blocks, with ``flags`` at these addresses (n,) int64, have been read."""
    for flag in flags:
        _await(flag, SENDERS, idle)


@kernel(arguments={"flags": _LIST}, need=Need.NONE, replayed=True)
def publish(flags: np.ndarray) -> None:
    """Hand all blocks, with ``flags`` at these addresses (n,) int64, to their receivers."""
    for flag in flags:
        store_release(flag, RECEIVERS)


@kernel(arguments={"blocks": _ROWS, "idle": _LIST}, need=Need.NONE, replayed=True)
def collect(blocks: np.ndarray, idle: np.ndarray) -> None:
    """Wait for all blocks, copy each and give it back.

    Args:
        blocks: (n, 4) int64: the address of the flag, those to copy from and to, and bytes.
        idle: see above.
    """
    for k in range(len(blocks)):
        _await(blocks[k, 0], RECEIVERS, idle)
        copy_bytes(blocks[k, 1], blocks[k, 2], blocks[k, 3])
        store_release(blocks[k, 0], SENDERS)


@jit
def _await(flag: int, owner: int, idle: np.ndarray) -> None:
    while True:
        for _ in range(LOOKS):
            if load_acquire(flag) == owner:
                return
        yield_core()
        call_function(idle[0], idle[1], idle[2:])
