"""Sequences of which the samples of a batch are tokens, and what is kept of them from batch to batch.

Every rank says the same of a batch before it runs.  Keys, values and states stay where their head is: nothing
of them is ever sent.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.comm_dtype import EXACT, code_dtype
from repurpose_hpc.runtime.buffers import Arena, sparse


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
        kept_dtype: of the numbers or codes that are kept.
        positions: int64 (most tokens of a batch,): the place of each in its sequence.
        lengths: int64 (slots,): tokens that are kept of each.
    """

    def __init__(
        self, slots: int, longest: int, max_batch: int, dtype: np.dtype, kept_dtype: str = EXACT
    ) -> None:
        """Begin with empty sequences.

        Args:
            slots, longest: see the class.
            max_batch: tokens of a batch, at most.
            dtype: that is computed in.
            kept_dtype: format of what is kept, see ``Formats``.
        """
        self.slots, self.longest, self._dtype = slots, longest, np.dtype(dtype)
        self.kept_dtype = code_dtype(kept_dtype, self._dtype)
        self.table = np.zeros((slots, 4), np.int64)
        self.positions = np.zeros(max_batch, np.int64)
        self.lengths = np.zeros(slots, np.int64)
        self._arena, self._bytes = Arena(), 0

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
        return self._room(shape, self.kept_dtype)

    def scales(self, heads: int) -> np.ndarray:
        """Memory for the scales of keys and values of every token, for each head, if they need any.

        Returns:
            (2, heads, slots, longest), else (2, 0, 0, 0).
        """
        shape = (heads, self.slots, self.longest) if self.kept_dtype == np.int8 else (0, 0, 0)
        return self._room((2, *shape), self._dtype)

    def states(self, heads: int, keys: int, values: int) -> np.ndarray:
        """Memory for what all tokens of a sequence have become together, for each of some heads.

        Returns:
            (heads, slots, keys, values), of the dtype that is computed in, however long sequences are.
        """
        memory = self._arena.take((heads, self.slots, keys, values), self._dtype)
        self._bytes += memory.nbytes
        return memory

    def _room(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        # Tokens of one neuron lie together.  Where those that there may be fill more than a page, large pages
        # would have all of them in memory after the first token.
        is_far = self.longest * dtype.itemsize > mmap.PAGESIZE
        memory = sparse(shape, dtype) if is_far else self._arena.take(shape, dtype)
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
        """Keep the first ``length`` tokens of a sequence, which has as many; of a state all or none."""
        self.lengths[slot] = length
