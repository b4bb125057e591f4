"""The comm dtype of the ghosts of one tensor, and the messages that they make.

In a scaled format (see ``model.comm_dtype``) a message is rows of bytes, one byte for each sample and value.
The block for a rank begins with its outliers, two rows for each; the others follow in their order: in int8 a
row for each, in int4 one for two of them, so that the last may be half empty.  Of bits eight neurons share
such a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from repurpose_hpc.kernels import INDEX_DTYPE
from repurpose_hpc.model.comm_dtype import BIT, BITS, EXACT, FLOAT16, SCALED, code_dtype, steps_of
from repurpose_hpc.plan.shard import Block


class Layout(NamedTuple):
    """The places of neurons in a buffer of one block of rows for each rank.

    Attributes:
        rows: of each rank's block, (R,) int64.
        places, halves: where each neuron begins, and what it takes, in halves of rows of bytes, (count,) of
            ``INDEX_DTYPE``; of bits its place in bits of such rows, and no halves; else empty, where each
            neuron is a row.
        steps: of each neuron, (count,) float32, in scaled formats; else empty.
    """

    rows: np.ndarray
    places: np.ndarray
    halves: np.ndarray
    steps: np.ndarray


class CommDtype:
    """A format of messages, and what is known of the neurons that the hosted workers exchange.

    Attributes:
        is_exact: whether values travel as they are.
        is_scaled: whether they travel in a scaled format.
    """

    def __init__(self, name: str, blocks: Sequence[Block]) -> None:
        self.name, self.is_exact, self.is_scaled = name, name == EXACT, name in SCALED
        self._is_bits = name == BIT
        self._outliers = blocks[0].outliers if blocks else None
        neurons, scales = [], []
        for block in blocks if self.is_scaled else ():
            neurons += [block.ghosts.sent, block.ghosts.received]
            scales += [block.sent_scales, block.received_scales]
        size = max((array.max(initial=-1) for array in neurons), default=-1) + 1
        scale = np.zeros(size, np.float32)
        for index, values in zip(neurons, scales, strict=True):
            scale[index] = values
        self._step = steps_of(scale, name) if self.is_scaled else scale

    def codes(self, dtype: np.dtype) -> np.dtype:
        """The type of what is sent for values of ``dtype``."""
        return code_dtype(self.name, dtype)

    def layout(self, neurons: np.ndarray, counts: np.ndarray) -> Layout:
        """The messages of ``neurons``, of which each rank's are ``counts``, (R,), one after the other."""
        if self._is_bits:
            return _bit_layout(counts)
        if not self.is_scaled:
            nothing = np.empty(0, INDEX_DTYPE)
            return Layout(counts, nothing, nothing, np.empty(0, np.float32))
        is_wide = np.zeros(neurons.size, bool) if self._outliers is None else self._outliers[neurons]
        halves = np.where(is_wide, BITS[FLOAT16], BITS[self.name]) // 4
        rank = np.repeat(np.arange(counts.size), counts)
        sizes = np.bincount(rank, halves, counts.size).astype(np.int64)
        rows = -(-sizes // 2)
        order = np.lexsort((~is_wide, rank))
        places, padding = np.empty(neurons.size, np.int64), np.cumsum(2 * rows - sizes) - (2 * rows - sizes)
        places[order] = np.cumsum(halves[order]) - halves[order]
        places += padding[rank]
        return Layout(rows, places.astype(INDEX_DTYPE), halves.astype(INDEX_DTYPE), self._step[neurons])


def _bit_layout(counts: np.ndarray) -> Layout:
    """``CommDtype.layout`` of bits: eight neurons of a rank share a row of bytes."""
    rows = -(-counts // 8)
    padding = np.cumsum(8 * rows - counts) - (8 * rows - counts)
    places = np.arange(counts.sum()) + np.repeat(padding, counts)
    nothing = np.empty(0, INDEX_DTYPE)
    return Layout(rows, places.astype(INDEX_DTYPE), nothing, np.empty(0, np.float32))


EXACT_DTYPE = CommDtype(EXACT, ())
