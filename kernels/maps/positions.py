"""Positions of maps copied in runs: halos cut out, maps put together."""

from __future__ import annotations

import numpy as np

from ..arguments import INTEGERS, REAL, Array
from ..registry import Need, kernel

_MAPS = Array(REAL, 3)


@kernel(arguments={"x": _MAPS, "runs": Array(INTEGERS, 2), "out": _MAPS}, need=Need.MAPS, replayed=True)
def copy_runs(x: np.ndarray, runs: np.ndarray, out: np.ndarray) -> None:
    """out[j, b, to + t] = x[j, b, first + t] for t < length, for every run (first, to, length).

    Args:
        x: (n, batch, positions), not overlapping out.
        runs: (r, 3) int64, inside both maps.
        out: (n, batch, positions of out).
    """
    for j in range(x.shape[0]):
        for b in range(x.shape[1]):
            row, result = x[j, b], out[j, b]
            for r in range(runs.shape[0]):
                first, to = runs[r, 0], runs[r, 1]
                for t in range(runs[r, 2]):
                    result[to + t] = row[first + t]
