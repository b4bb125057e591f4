"""Sequences of which the samples of a batch are tokens, and what is kept of them from batch to batch.

Every rank says the same of a batch before it runs.  Keys and values stay where their head is: nothing of
them is ever sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from repurpose_hpc.kernels import aligned


class Piece(NamedTuple):
    """Tokens of one sequence that follow one another.

    Attributes:
        slot: of the sequence.
        tokens: how many.
    """

    slot: int
    tokens: int


class Sequences:
    """Slots for sequences, and the pieces of them in a batch.

    Attributes:
        slots: sequences that are kept at a time.
        longest: tokens that one may have.
        table: int64 (slots, 4), a row for each piece of a batch: its first token in the batch, how many it
            has, its slot, and the tokens before them; rows without tokens count for nothing.
        positions: int64 (most tokens of a batch,): the place of each in its sequence.
        lengths: int64 (slots,): tokens that are kept of each.
    """

    def __init__(self, slots: int, longest: int, max_batch: int, dtype: np.dtype) -> None:
        """Begin with empty sequences.

        Args:
            slots, longest: see the class.
            max_batch: tokens of a batch, at most.
            dtype: of what is kept.
        """
        self.slots, self.longest, self._dtype = slots, longest, np.dtype(dtype)
        self.table = np.zeros((slots, 4), np.int64)
        self.positions = np.zeros(max_batch, np.int64)
        self.lengths = np.zeros(slots, np.int64)
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """Bytes of all that is kept by this rank."""
        return self._bytes

    def memory(self, heads: int, size: int) -> np.ndarray:
        """Memory for one number of every token, for each of the ``size`` neurons of some heads.

        Returns:
            (heads, size, slots, longest); pages of it are used as sequences grow.
        """
        shape = (heads, size, self.slots, self.longest)
        memory = aligned((int(np.prod(shape)),), self._dtype).reshape(shape)
        self._bytes += memory.nbytes
        return memory

    def place(self, pieces: Sequence[Piece]) -> None:
        """Say which tokens are in the next batch, piece after piece; they go behind those that are kept.

        Raises:
            ValueError: two pieces of one sequence, or more tokens than there is room for.
        """
        self.table[:, 1] = 0
        first = 0
        if len({piece.slot for piece in pieces}) < len(pieces):
            raise ValueError("expected one piece of a sequence in a batch")
        for row, (slot, tokens) in enumerate(pieces):
            past = int(self.lengths[slot])
            if past + tokens > self.longest or first + tokens > self.positions.size:
                raise ValueError(f"expected {self.longest} tokens at most, got {past} and {tokens} more")
            self.table[row] = first, tokens, slot, past
            self.positions[first : first + tokens] = np.arange(past, past + tokens)
            self.lengths[slot] += tokens
            first += tokens

    def forget(self, slot: int, length: int = 0) -> None:
        """Keep the first ``length`` tokens of a sequence, which has as many."""
        self.lengths[slot] = length
