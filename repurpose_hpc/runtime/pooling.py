"""One vector for a text, from the outputs of its tokens.

Every rank pools the outputs that it has, so that only the result goes to the root.
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


def pooled(rows: np.ndarray, sizes: Sequence[int], pool: Pool) -> tuple[np.ndarray, list[int]]:
    """The outputs of a batch, pooled piece by piece.

    Args:
        rows: (outputs, tokens), piece after piece.
        sizes: tokens of each piece, 1 or more.
        pool: see above.

    Returns:
        (outputs, columns) and the columns of each piece.
    """
    if pool is Pool.NONE:
        return rows, list(sizes)
    counts = np.asarray(sizes, np.intp)
    ends = np.cumsum(counts)
    if pool is Pool.MEAN:
        rows = np.add.reduceat(rows, ends - counts, axis=1) / counts.astype(rows.dtype)
    else:
        rows = rows[:, ends - (counts if pool is Pool.FIRST else 1)]
    return rows, [1] * len(sizes)


def joined(parts: Sequence[np.ndarray], sizes: Sequence[int], pool: Pool) -> np.ndarray:
    """The outputs of a text from those of its pieces, (tokens, outputs), or (1, outputs) if pooled.

    Args:
        parts: of each piece, what ``pooled`` made of it, columns first.
        sizes: tokens of each piece.
        pool: see above.
    """
    if pool is Pool.MEAN:
        weights = np.asarray(sizes, parts[0].dtype) / sum(sizes)
        return np.sum([part * weight for part, weight in zip(parts, weights, strict=True)], axis=0)
    if pool is Pool.NONE:
        return np.concatenate(parts)
    return parts[0 if pool is Pool.FIRST else -1]
