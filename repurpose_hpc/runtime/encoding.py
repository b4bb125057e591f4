"""Texts of any lengths through a transformer, several in a batch, without padding.

For what the ranks exchange see ``runtime.tokens``; the outputs come to the root group by group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from repurpose_hpc.model.forward import Compute, forward
from repurpose_hpc.model.network import Network
from repurpose_hpc.runtime.pooling import Pool, pooled, wanted
from repurpose_hpc.runtime.resources import Formats
from repurpose_hpc.runtime.tokens import Tokens, TokenSession
from repurpose_hpc.runtime.verification import Verification

# Texts of a batch, at most: as many times those of the largest length that fit.
_SHORTER = 4


def slots_for(texts: Sequence[np.ndarray], batch_size: int) -> int:
    """Sequences that a session needs room for, with so many tokens in a batch."""
    longest = max(text.size for text in texts)
    return min(len(texts), _SHORTER * -(-batch_size // longest))


def encode(
    session: TokenSession, texts: Sequence[np.ndarray], batch_size: int, pool: Pool
) -> Iterator[list[np.ndarray] | None]:
    """Outputs of texts; collective, all ranks give the same.

    Args:
        session: with nothing in its slots.
        texts: ids of each, (tokens,) integers.
        batch_size: tokens that go through the network together, unless a single text has more.
        pool: what to make of the outputs of a text's tokens.

    Yields:
        for some texts after the other those of each, (tokens, outputs) or (1, outputs), on the root; None
        elsewhere.

    Raises:
        UserError: on every rank; see ``TokenSession.run``.
    """
    for first, end in _groups([text.size for text in texts], batch_size, session.slots):
        yield session.run([Tokens(slot, text) for slot, text in enumerate(texts[first:end])], pool)
        for slot in range(end - first):
            session.forget(slot)


def _groups(sizes: Sequence[int], batch_size: int, slots: int) -> Iterator[tuple[int, int]]:
    """First and end of texts that go together."""
    first = tokens = 0
    for place, size in enumerate(sizes):
        if place > first and (tokens + size > batch_size or place - first == slots):
            yield first, place
            first, tokens = place, 0
        tokens += size
    yield first, len(sizes)


def normalised(rows: np.ndarray) -> np.ndarray:
    """Vectors (n, outputs) of length 1; those without a length stay."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(rows.dtype)


class TextVerification(Verification):
    """A ``Verification`` of the outputs of texts.

    Args:
        network: of tokens.
        dtype, formats: of the run.
        compute: of every operation.
        pool, is_normalised: what is made of the outputs.
    """

    def __init__(
        self,
        network: Network,
        dtype: np.dtype,
        formats: Formats,
        compute: Compute,
        pool: Pool,
        is_normalised: bool,
    ) -> None:
        super().__init__(network, dtype, formats, compute)
        self._pool, self._is_normalised = pool, is_normalised
        self._lengths: dict[int, Network] = {}

    def reference(self, inputs: np.ndarray, dtype: type) -> np.ndarray:
        """What NumPy makes of a text, ids (tokens,), in ``dtype``."""
        tokens = inputs.size
        if tokens not in self._lengths:
            self._lengths[tokens] = self.network.at(tokens)
        rows = forward(self._lengths[tokens], inputs[None], dtype, self.compute).reshape(tokens, -1)
        rows = rows[wanted(0, tokens, tokens, self._pool)]
        rows = pooled(rows.T, [len(rows)], self._pool)[0].T
        return normalised(rows) if self._is_normalised else rows
