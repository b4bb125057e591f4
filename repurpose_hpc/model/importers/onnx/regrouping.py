"""Values of neurons in other groups: neurons that become positions, and the reverse.

A neuron is what has an owner, and cannot be cut, so that such a change moves values between workers.  One
mixing with fixed weights does it: every position of the source is brought to where it is needed
(``Rearrange``), what does not belong there is multiplied by zero (``Affine``), and each new neuron is the sum
of what is left of the old ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.builder import Builder
from repurpose_hpc.model.operations import Window, pointwise

# Of the values that are brought together for a sample, and of the weights; what needs more would take
# longer than the network around it.
LARGEST_MAPS = 1 << 20
LARGEST_WEIGHTS = 1 << 24


class Regrouping(NamedTuple):
    """New neurons from old ones, (m, q) from (n, p), each value from one value.

    Attributes:
        sources: (q, k): the old positions that each new one needs, -1 behind the last.
        mask: bool (n, q, k): which of them count.
        weights: bool (m, n, k): the old neurons whose values count for a new one, and where they stand.
    """

    sources: np.ndarray
    mask: np.ndarray
    weights: np.ndarray

    def is_exact(self) -> bool:
        """True if exactly one old value counts for every new one."""
        n, q, k = self.mask.shape
        entries = self.mask.transpose(0, 2, 1).reshape(n * k, q)
        counts = self.weights.reshape(len(self.weights), -1).astype(np.float32) @ entries.astype(np.float32)
        return bool((counts == 1).all())


def regrouping(neurons: np.ndarray, positions: np.ndarray, old: tuple[int, int]) -> Regrouping | None:
    """How to make new neurons, or None if that takes too much or two steps.

    Args:
        neurons, positions: (m, q) the old neuron and position of each value.
        old: how many there are, n and p.
    """
    for k, slots in (_compact(positions), (old[1], positions)):
        (m, q), n = positions.shape, old[0]
        if n * q * k > LARGEST_MAPS or m * n * k > LARGEST_WEIGHTS:
            return None
        sources = np.full((q, k), -1, np.int64)
        sources[np.arange(q)[None, :], slots] = positions
        mask, weights = np.zeros((n, q, k), bool), np.zeros((m, n, k), bool)
        mask[neurons, np.arange(q)[None, :], slots] = True
        weights[np.arange(m)[:, None], neurons, slots] = True
        found = Regrouping(sources, mask, weights)
        if found.is_exact():
            return found
    return None


def _compact(positions: np.ndarray) -> tuple[int, np.ndarray]:
    """The most old positions that a new one needs, and the rank of each among those of its column."""
    slots = np.empty_like(positions)
    for column in range(positions.shape[1]):
        _, slots[:, column] = np.unique(positions[:, column], return_inverse=True)
    return int(slots.max()) + 1, slots


def add(
    builder: Builder,
    name: Callable[[str], str],
    origin: str,
    tensor: str,
    plan: Regrouping,
    positions: tuple[int, ...],
) -> str:
    """The tensor of the new neurons, with maps of ``positions``.

    Args:
        builder: has ``tensor``.
        name: a name that nothing has yet, from what it should be.
        origin: what the operations are called after.
        tensor: the old neurons.
        plan: how the new ones are made.
        positions: the shape of their maps.
    """
    n, q, k = plan.mask.shape
    old = math.prod(builder.positions(tensor))
    if not np.array_equal(plan.sources.ravel(), np.arange(old)):
        maps = (q * k,) if k > 1 else positions
        tensor = builder.rearrange(name(f"{origin}.spread"), tensor, plan.sources.ravel(), maps)
    if not (plan.mask | (plan.sources < 0)).all():
        mask = plan.mask.reshape(n, q * k).astype(np.float32)
        tensor = builder.affine(name(f"{origin}.mask"), tensor, mask, np.zeros_like(mask))
    weights = plan.weights.reshape(len(plan.weights), -1).astype(np.float32)
    bias = np.zeros(len(weights), np.float32)
    return builder.mixing(name(origin), tensor, weights, bias, _window(q, k, positions), True)


def _window(q: int, k: int, positions: tuple[int, ...]) -> Window | None:
    """The window in which q positions of the target see k of the source each, side by side."""
    if q * k == 1:
        return None
    if k == 1:
        return pointwise(positions)
    first, last = positions if len(positions) == 2 else (1, q)
    out = (first, last) if first > 1 else (last,)
    front = (1,) * (len(out) - 1)
    maps, kernel = (*out[:-1], last * k), (*front, k)
    return Window(maps, kernel, kernel, (1,) * len(out), (0,) * len(out), out)
