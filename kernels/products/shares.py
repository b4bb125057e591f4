"""Shares of rows: who of several threads computes which.

Every thread computes some rows with the same instructions as a single one would, so results do not depend on
the number of threads, to the last bit.  Rows are cut once.  The threads are Numba's, whose pool (OpenMP, if
there is one on the machine) is started by the first call.
"""

from __future__ import annotations

import numpy as np


def row_shares(work: np.ndarray, threads: int) -> np.ndarray:
    """The first row of each thread, and the end of the last one's, so that all have about the same work.

    Args:
        work: of all rows before each, and of all; ascending, (rows + 1,).
        threads: 1 or more.

    Returns:
        (threads + 1,) int64.
    """
    targets = int(work[-1]) * np.arange(1, threads) // threads
    inner = np.searchsorted(work, targets)
    return np.concatenate([[0], inner, [len(work) - 1]]).astype(np.int64)
