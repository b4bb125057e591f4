"""Several exchanges as one: a rank sends another one message instead of several.

The members fill and read buffers of their own.  The block for a rank, in the buffer that travels, is the
members' blocks for it, one after the other: copied there before they are sent, and on the other side from
there to where the members have them.  Both ends put the members in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from repurpose_hpc.kernels import copy_blocks
from repurpose_hpc.runtime.buffers import Buffer, Part
from repurpose_hpc.runtime.calls import PACK, Call
from repurpose_hpc.runtime.exchange.exchange import Exchange


def merge(exchanges: Sequence[Exchange], max_batch: int) -> list[Exchange]:
    """Exchanges that can travel at the same time, as one for each type of numbers.

    Codes of ghosts and partial sums stay apart, as zeros are left out number by number.
    """
    of_type: dict[np.dtype, list[Exchange]] = {}
    for exchange in exchanges:
        of_type.setdefault(exchange.send.flat.dtype, []).append(exchange)
    return [members[0] if len(members) == 1 else Merged(members, max_batch) for members in of_type.values()]


class _Blocks(NamedTuple):
    """A buffer of one block for each rank, and the items of each block, (R,)."""

    buffer: Buffer
    items: np.ndarray

    def places(self, part: Part) -> np.ndarray:
        """The address and the bytes of each rank's block, (R, 2) int64."""
        buffer = self.buffer
        size = self.items * (buffer.values * buffer.flat.itemsize) * part.samples
        return np.stack([buffer.view(part).ctypes.data + np.cumsum(size) - size, size], axis=1)


class Merged(Exchange):
    """Exchanges of the same ranks that can travel at the same time."""

    def __init__(self, members: Sequence[Exchange], max_batch: int) -> None:
        """``members`` are of one type of numbers, and on all ranks in the same order."""
        self._sent = [_Blocks(member.send, member.sent) for member in members]
        self._received = [_Blocks(member.receive, member.received) for member in members]
        sent, received = (_values(blocks) for blocks in (self._sent, self._received))
        values_sent = sum(member.values_sent for member in members)
        super().__init__(sent, received, max_batch, members[0].send.flat.dtype, items=values_sent)
        self._members = members

    @property
    def members(self) -> Sequence[Exchange]:
        """The exchanges that it consists of."""
        return self._members

    def merge_calls(self, part: Part) -> list[Call]:
        """Calls that bring the members' items into ``send``."""
        members, union = _addresses(self._sent, _Blocks(self.send, self.sent), part)
        return _copying(members, union)

    def split_calls(self, part: Part) -> list[Call]:
        """Calls that bring what came in ``receive`` to the members."""
        members, union = _addresses(self._received, _Blocks(self.receive, self.received), part)
        return _copying(union, members)


def _values(members: Sequence[_Blocks]) -> np.ndarray:
    """Numbers per sample of each rank's block when the members are one, (R,)."""
    return np.sum([items * buffer.values for buffer, items in members], axis=0)


def _addresses(members: Sequence[_Blocks], union: _Blocks, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Places of the members' blocks, apart and in the union; (blocks, 2) each: address, bytes."""
    places = np.stack([blocks.places(part) for blocks in members])
    places_in_union = places.copy()
    offsets = np.cumsum(places[:, :, 1], axis=0) - places[:, :, 1]
    places_in_union[:, :, 0] = union.places(part)[:, 0] + offsets
    return places.reshape(-1, 2), places_in_union.reshape(-1, 2)


def _copying(source: np.ndarray, target: np.ndarray) -> list[Call]:
    """The call that copies blocks from one list of places to another, those that are not empty."""
    blocks = np.column_stack([source[:, 0], target])[source[:, 1] > 0]
    return [(PACK, copy_blocks, (np.ascontiguousarray(blocks),))] if len(blocks) else []
