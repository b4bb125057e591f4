"""Several exchanges as one: a rank sends another one message instead of several.

The members fill and read buffers of their own.  The block for a rank, in the buffer that travels, is the
members' blocks for it, one after the other: copied there before they are sent, and on the other side from
there to where the members have them.  Both ends put the members in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from mpi4py import MPI

from repurpose_hpc.kernels import copy_blocks
from repurpose_hpc.runtime.buffers import Buffer, Part
from repurpose_hpc.runtime.exchange.exchange import Exchange
from repurpose_hpc.runtime.exchange.messages import Carrier
from repurpose_hpc.runtime.lowering.blocks import PACK, Call
from repurpose_hpc.runtime.setting import Setting

# A buffer, and how many of its items are for each rank.
Blocks = tuple[Buffer, np.ndarray]


def merged(exchanges: Sequence[Exchange], setting: Setting) -> list[Exchange]:
    """What can travel at the same time, as one exchange of each type of numbers.

    Codes of ghosts and partial sums stay apart, as zeros are left out number by number.
    """
    of_type: dict[np.dtype, list[Exchange]] = {}
    for exchange in exchanges:
        of_type.setdefault(exchange.send.flat.dtype, []).append(exchange)
    return [
        members[0] if len(members) == 1 else Merged(members, setting.comm, setting.max_batch)
        for members in of_type.values()
    ]


class Merged(Exchange):
    """Exchanges of the same ranks that can travel at the same time."""

    def __init__(self, members: Sequence[Exchange], comm: MPI.Comm, max_batch: int) -> None:
        """``members`` are active and of one type of numbers, and on all ranks in the same order."""
        self._sent: list[Blocks] = [(member.send, member.sent) for member in members]
        self._received: list[Blocks] = [(member.receive, member.received) for member in members]
        counts = (sum(n * buffer.values for buffer, n in each) for each in (self._sent, self._received))
        super().__init__(comm, *counts, max_batch, members[0].send.flat.dtype)
        self._members = members

    @property
    def members(self) -> Sequence[Exchange]:
        """The exchanges that it consists of."""
        return self._members

    def carrier(self, way: str, part: Part) -> Carrier:
        """See ``Exchange``."""
        carrier = super().carrier(way, part)
        apart, together = _addresses(self._sent, (self.send, self.sent), part)
        there, here = _addresses(self._received, (self.receive, self.received), part)
        return replace(
            carrier,
            post=[*_copying(apart, together), *carrier.post],
            wait=[*carrier.wait, *_copying(here, there)],
        )


def _item_bytes(blocks: Blocks) -> np.ndarray:
    """Of each rank's block, per sample."""
    buffer, counts = blocks
    return counts * (buffer.values * buffer.flat.itemsize)


def _addresses(members: Sequence[Blocks], whole: Blocks, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Where the members' blocks for each rank are: apart, and together; (blocks, 2) each: address, bytes."""
    apart = np.stack([_places(blocks, part) for blocks in members])
    together = apart.copy()
    before = np.cumsum(apart[:, :, 1], axis=0) - apart[:, :, 1]
    together[:, :, 0] = _places(whole, part)[:, 0] + before
    return apart.reshape(-1, 2), together.reshape(-1, 2)


def _places(blocks: Blocks, part: Part) -> np.ndarray:
    """The address and the bytes of each rank's block, (R, 2) int64."""
    size = _item_bytes(blocks) * part.samples
    return np.stack([blocks[0].view(part).ctypes.data + np.cumsum(size) - size, size], axis=1)


def _copying(source: np.ndarray, target: np.ndarray) -> list[Call]:
    """Copy blocks from there to there, those that are something."""
    blocks = np.column_stack([source[:, 0], target])[source[:, 1] > 0]
    return [(PACK, copy_blocks, (np.ascontiguousarray(blocks),))] if len(blocks) else []
