"""What windows on single maps see, and how many outputs are made at a time: the same for every map."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

from ..arguments import Pair, Window2D
from .vectors import HAS_MANY_REGISTERS, lanes

# Rows of outputs at a time: their sums, and what they see, are in registers.  Rows that are not there are
# computed, but not stored: one sum alone would take as long as four, for the latency of adding.
ROWS = (4, 8) if HAS_MANY_REGISTERS else (4,)
# Columns from an output to the next that have loops of their own; GATHERED is that of all others.
STEPS = (1, 2)
GATHERED = 0
# A vector of fewer lanes has no half for the end of a row.
FEWEST_LANES = 8


class View(NamedTuple):
    """What windows see, the same for every map.

    Attributes:
        shape: of a map, (H, W).
        window: on it.
        out_shape: (OH, OW).
        batch: maps of one neuron.
        rows: of outputs at a time, as of ``rows_for``.
        runs: (runs, 3) int64, tap rows that are added up together: the first, how many, and from one to the
            next.  What an output sees with the second of them, the output below sees with the first.
        masks: uint32, bits of the lanes that are inside the map: by vector of a row of outputs, column of
            taps, and part as of ``parts_of``.
        border: a row of the map of what lies beyond it, with ``slack`` numbers before and after.
        slack: numbers that vectors read before and after a row; 0 where they can leave lanes out.
        copy: room for a map with ``slack`` numbers before and after; empty if there is no slack.
    """

    shape: Pair
    window: Window2D
    out_shape: Pair
    batch: int
    rows: int
    runs: np.ndarray
    masks: np.ndarray
    border: np.ndarray
    slack: int
    copy: np.ndarray


@register_jitable
def rows_for(rows: int, step: int) -> int:
    """Rows of outputs to take at a time, of ``rows``; ``step``: columns from an output to the next."""
    if step not in STEPS:
        return 1
    return ROWS[0] if rows <= ROWS[0] else ROWS[-1]


@register_jitable
def tallest_run(rows: int, step: int) -> int:
    """Tap rows that are added up together, at most, for so many rows of outputs at a time."""
    if rows < ROWS[-1]:  # saves time of compiling: few rows have little to share
        return 1
    return 3 if step == 1 else 2


@register_jitable
def parts_of(step: int) -> int:
    """Vectors of a map from which the one is made that an output's step takes apart."""
    return 2 if step == 2 else 1


@register_jitable
def lanes_for(left: int, dtype: np.dtype) -> int:
    """Numbers of the next vector of a row of outputs with ``left`` of them: half a vector if that will do."""
    count = lanes(dtype)
    return count // 2 if count >= FEWEST_LANES and left <= count // 2 else count
