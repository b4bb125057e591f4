"""Constants that differ with the size of the batch.

A graph with a free batch is evaluated for two sizes of it at once.  A constant that is the same for both is a
number; one that differs is a ``Varying``, which serves as a shape, and as a weight only where every sample
has the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Stand for a batch of any size: primes, so that a Reshape that mixes samples with features does not
# keep either by chance.
BATCHES = (7919, 7907)


@dataclass(frozen=True, eq=False)
class Varying:
    """A constant that differs with the size of the batch: its values for each of ``BATCHES``."""

    values: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> np.ndarray | Varying:
        """A constant from its values for each of ``BATCHES``."""
        return first if _same(first, second) else cls((first, second))

    @classmethod
    def shape(cls, sizes: Sequence[int]) -> np.ndarray | Varying:
        """The constant that is a shape, the samples first."""
        first = np.array(sizes, np.int64)
        second = first.copy()
        second[:1][second[:1] == BATCHES[0]] = BATCHES[1]
        return cls.of(first, second)

    @classmethod
    def empty(cls, sizes: Sequence[int]) -> np.ndarray | Varying:
        """The constant of a shape without any entry, the samples first."""
        other = BATCHES[1] if sizes[0] == BATCHES[0] else sizes[0]
        return cls.of(np.zeros(sizes, np.float32), np.zeros((other, *sizes[1:]), np.float32))

    def row(self) -> np.ndarray | None:
        """The row that every sample has, (1, ...); None if they have different ones."""
        first, second = (_row(value, batch) for value, batch in zip(self.values, BATCHES, strict=True))
        return first if first is not None and second is not None and _same(first, second) else None

    def sizes(self) -> np.ndarray | None:
        """A shape, for the first of ``BATCHES``; None if an entry differs that is no multiple of it."""
        first, second = self.values
        if first.ndim != 1 or first.shape != second.shape:
            return None
        is_multiple = first * BATCHES[1] == second * BATCHES[0]
        return first if (is_multiple | (first == second))[1:].all() else None


def _row(value: np.ndarray, batch: int) -> np.ndarray | None:
    is_row = value.ndim > 0 and len(value) == batch and bool((value == value[:1]).all())
    return value[:1] if is_row else None


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == second.shape and np.array_equal(first, second, equal_nan=first.dtype.kind in "fc")
