"""One vector for a text, from the outputs of its tokens.

Every rank pools the outputs that it has, so that only the result goes to the root; outputs that do not matter
are not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np


class Pool(Enum):
    """What is made of the outputs of a text's tokens."""

    NONE = "none"
    FIRST = "first"
    LAST = "last"
    MEAN = "mean"


def wanted(first: int, end: int, tokens: int, pool: Pool) -> range:
    """The tokens of a piece of a text whose outputs matter, counted from the first of the piece.

    Args:
        first, end: of the piece, in the text.
        tokens: of the text.
        pool: see above.
    """
    count = end - first
    if pool is Pool.FIRST:
        return range(0 if first else 1)
    if pool is Pool.LAST:
        return range(count - 1, count) if end == tokens else range(0)
    return range(count)


def pooled(rows: np.ndarray, sizes: Sequence[int], pool: Pool) -> tuple[np.ndarray, list[int]]:
    """The outputs of a batch, pooled piece by piece.

    Args:
        rows: (outputs, tokens) of those that are ``wanted``, piece after piece.
        sizes: such tokens of each piece.
        pool: see above.

    Returns:
        (outputs, columns) and the columns of each piece.
    """
    if pool is not Pool.MEAN:
        return rows, list(sizes)
    counts = np.asarray(sizes, np.intp)
    sums = np.add.reduceat(rows, np.cumsum(counts) - counts, axis=1)
    return sums / counts.astype(rows.dtype), [1] * len(sizes)


def joined(parts: Sequence[np.ndarray], sizes: Sequence[int], pool: Pool) -> np.ndarray:
    """The outputs of a text from those of its pieces, (tokens, outputs), or (1, outputs) if pooled.

    Args:
        parts: of each piece, what ``pooled`` made of it, columns first.
        sizes: tokens of each piece.
        pool: see above.
    """
    if pool is not Pool.MEAN:
        return np.concatenate(parts)
    weights = np.asarray(sizes, parts[0].dtype) / sum(sizes)
    return np.sum([part * weight for part, weight in zip(parts, weights, strict=True)], axis=0)
