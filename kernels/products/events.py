"""Products with inputs that are 0 or 1, such as spikes: the weights of those that are 1 are added up.

The inputs of every sample that are 1, its *events*, are listed first.  Then a few panels of weights meet the
events of all samples of a block, in stretches of inputs that stay in the nearest cache.  The sums are those
of ``dense``, in the order in which it adds up with ``in_order``.  Where inputs are anything else, or too many
are 1, it is ``dense`` that computes.
"""

from __future__ import annotations

import numpy as np

from ..arguments import EPILOGUE, INDEX, INTEGER, REAL, STORED, Array, Epilogue
from ..jit import in_both, jit
from ..llvm.events import EVENT_PANELS, EventWork, add_events, lowest_bit, nonzero_lanes
from ..llvm.tiles import MOST_SAMPLES
from ..llvm.vectors import lanes
from ..maps.activations import activate_in_place
from ..registry import Need, kernel
from .crossover import EVENT_DENSITY
from .dense import Sums, block_samples, dense, finish_slab

# Inputs at a time.
DEPTH = 128
# Inputs that are looked at before it is asked whether all are 0 or 1.
CHECKED = 1 << 12

_VECTOR, _MATRIX = Array(REAL, 1), Array(REAL, 2)


def events_scratch(n: int, batch: int, R: int) -> tuple[int, int]:
    """Numbers of scratch memory that ``dense_events`` needs for tiles, and indices that it needs.

    Args:
        n, batch: of X.
        R: rows of a panel.
    """
    block = -(-block_samples(n, batch) // MOST_SAMPLES) * MOST_SAMPLES
    return EVENT_PANELS * block * R, block * (n + _stretches(n) + 2)


@in_both
def _stretches(n: int) -> int:
    return -(-n // DEPTH)


@kernel(
    arguments={
        "panels": Array(STORED, 3),
        "scales": _VECTOR,
        "X": _MATRIX,
        "start": _MATRIX,
        "out": _MATRIX,
        "scratch": _VECTOR,
        "lists": Array(INDEX, 1),
        "in_order": INTEGER,
        "epilogue": EPILOGUE,
    },
    need=Need.NONE,
    replayed=True,
    parts=(dense,),
)
def dense_events(
    panels: np.ndarray,
    scales: np.ndarray,
    X: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
    scratch: np.ndarray,
    lists: np.ndarray,
    in_order: int,
    epilogue: Epilogue,
) -> None:
    """out = act(start + scales W X), fast where few inputs are 1 and all others 0.

    Args:
        panels, scales, X, start, out, in_order, epilogue: as of ``dense``.
        scratch: as of ``dense``, and at least the numbers of ``events_scratch``.
        lists: at least the indices of ``events_scratch``.
    """
    (n, batch), R = X.shape, panels.shape[2]
    if n == 0 or not are_few_events(X.reshape(-1)):
        dense(panels, scales, X, start, out, scratch, in_order, epilogue)
        return
    step, width = block_samples(n, batch), MOST_SAMPLES if batch > 1 else 1
    block = -(-step // MOST_SAMPLES) * MOST_SAMPLES
    # Events of every sample, their number so far, and where each stretch begins in them.
    events, counts, bounds = lists[: block * n], lists[block * n :][:block], lists[block * (n + 1) :]
    flat_start, flat = start.reshape(-1), out.reshape(-1)
    for first in range(0, batch, step):
        last = min(first + step, batch)
        list_events(X, first, last, events, counts, bounds)
        for panel in range(0, len(panels), EVENT_PANELS):
            size = min(EVENT_PANELS, len(panels) - panel)
            _add_panels(panels, panel, size, events, bounds, (last - first, width), scratch)
            for b in range(first, last, width):
                sums = Sums((b - first) * size * R, size, width, R, panel * R, b)
                finish_slab(scratch, sums, scales, flat_start, flat, out.shape)
    activate_in_place(out, epilogue.code, epilogue.alpha, epilogue.beta)


@jit
def are_few_events(X: np.ndarray) -> bool:
    """Say if all of X, one-dimensional, are 0 or 1, and few enough are 1."""
    ones = 0
    for first in range(0, X.size, CHECKED):
        others = 0
        for x in X[first : first + CHECKED]:
            ones += x == 1
            others += (x != 0) & (x != 1)
        if others:
            return False
    return ones <= EVENT_DENSITY * X.size


@jit
def list_events(
    X: np.ndarray, first: int, last: int, events: np.ndarray, counts: np.ndarray, bounds: np.ndarray
) -> None:
    """List the events of samples ``first`` to ``last`` - 1.

    Args:
        X: (n, batch), 0 or 1.
        first, last: see above.
        events: gets those of sample ``first`` + c from number c n on, ascending.
        counts: gets how many each sample has.
        bounds: gets, from number s ``counts.size`` on, how many are before stretch s, and in all.
    """
    n, batch = X.shape
    flat, count = X.reshape(-1), last - first
    whole = count - count % lanes(X.dtype)
    counts[:count] = 0
    for stretch in range(_stretches(n) + 1):
        bounds[stretch * counts.size :][:count] = counts[:count]
        for k in range(stretch * DEPTH, min((stretch + 1) * DEPTH, n)):
            row = k * batch + first
            for begin in range(0, whole, lanes(X.dtype)):
                mask = nonzero_lanes(flat, row + begin)
                while mask:
                    c = begin + lowest_bit(mask)
                    events[c * n + counts[c]] = k
                    counts[c] += 1
                    mask &= mask - 1
            for c in range(whole, count):
                if flat[row + c] != 0:
                    events[c * n + counts[c]] = k
                    counts[c] += 1


@jit
def _add_panels(
    panels: np.ndarray,
    panel: int,
    size: int,
    events: np.ndarray,
    bounds: np.ndarray,
    slabs: tuple[int, int],
    tiles: np.ndarray,
) -> None:
    """The sums of ``size`` panels from number ``panel`` on, of samples in slabs: how many, and of a slab."""
    (n, R), (count, width) = panels.shape[1:], slabs
    block = events.size // n
    for stretch in range(_stretches(n)):
        for c in range(count):
            place = c % width
            tile = ((c - place) * size + place) * R
            begin, end = bounds[stretch * block + c], bounds[(stretch + 1) * block + c]
            work = EventWork(size, panel, c * n + begin, c * n + end, tile, width * R, stretch > 0)
            add_events(work, panels, events, tiles)
