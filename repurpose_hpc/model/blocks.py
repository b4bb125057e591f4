"""Things in a row shared out in blocks: neurons among owners, positions among tiles."""

from __future__ import annotations

import numpy as np


def block_ends(count: int, weights: np.ndarray) -> np.ndarray:
    """The end of every block, exclusive, (P,) int64, when blocks follow the weights; the last is ``count``.

    Args:
        count: of things.
        weights: relative sizes of the blocks, (P,), >= 0, not all 0.
    """
    # Halves always round up: rounded to even, a block could exceed its worker's capacity.
    return np.floor(count * np.cumsum(weights) / weights.sum() + (0.5 + 1e-9)).astype(np.int64)
