"""Pooling: one value of every window."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from repurpose_hpc.model.operations.operation import Cost, OneSource, Shape, operation
from repurpose_hpc.model.operations.patches import as_map, from_map, pad, spread, tap_views
from repurpose_hpc.model.operations.window import Window

POOLS = ("max", "average")


@operation
@dataclass(frozen=True)
class Pool(OneSource):
    """The largest or the mean value of every window, neuron by neuron.

    Attributes:
        kind: of ``POOLS``.
        window: entries in the padding never count for ``max``.
        count_padding: whether padding counts, as zeros, in the mean; only as far as ``extent`` reaches.
        extent: last position along each axis, exclusive, of map and padding together; windows may
            reach beyond (ceil mode), where nothing counts.
    """

    name: str
    source: str
    target: str
    kind: str
    window: Window
    count_padding: bool = False
    extent: tuple[int, ...] = ()

    def compute(self, *sources: np.ndarray) -> np.ndarray:
        """See ``Operation``."""
        (x,) = sources
        if self.kind == "max":
            return from_map(reduce(np.maximum, tap_views(self.window, pad(self.window, x, -np.inf))))
        total = sum(tap_views(self.window, pad(self.window, x, 0)))
        return from_map(total / self.counts().astype(x.dtype).reshape(self.window.out))

    def counts(self) -> np.ndarray:
        """Entries of each window that count in its mean, (positions out,)."""
        window = self.window
        if not self.count_padding:
            return (window.indices() >= 0).sum(axis=1)
        counts = np.ones(1, np.int64)
        for kernel, stride, dilation, front, out, extent in zip(
            window.kernel, window.strides, window.dilations, window.pads, window.out, self.extent, strict=True
        ):
            places = np.arange(out)[:, None] * stride + np.arange(kernel) * dilation - front
            counts = np.outer(counts, (places < extent).sum(axis=1)).ravel()
        return counts

    def vjp(self, g: np.ndarray, target: np.ndarray, *sources: np.ndarray) -> list[np.ndarray]:
        """See ``Operation``; of equal values, the first is the largest."""
        (x,) = sources
        g = as_map(g)
        if self.kind == "average":
            share = g / self.counts()
            return [spread(self.window, x, lambda tap: share)]
        largest = self._first_largest(x, as_map(target))
        return [spread(self.window, x, lambda tap: np.where(largest == tap, g, 0))]

    def _first_largest(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The first entry of every window that is as large as its maximum y, (n, batch, positions out)."""
        largest = np.full(y.shape, self.window.taps, np.int32)
        for tap, view in enumerate(tap_views(self.window, pad(self.window, x, -np.inf))):
            np.minimum(largest, tap, out=largest, where=view.reshape(y.shape) == y)
        return largest

    def is_binary(self, *sources: bool) -> bool:
        """Those are of which the largest is taken, but for windows in the padding alone."""
        return self.kind == "max" and all(sources) and bool((self.window.indices() >= 0).any(axis=1).all())

    def gain(self, sources: Sequence[Shape], target: Shape) -> list[float]:
        """Upper bound of the norm; of an average √ of the largest sum of a row times that of a column."""
        if self.kind == "max":
            return [math.sqrt(self.window.overlap())]
        indices = self.window.indices()
        shares = (indices >= 0) / self.counts()[:, None]
        columns = np.bincount(indices[indices >= 0], shares[indices >= 0])
        return [math.sqrt(shares.sum(axis=1).max() * columns.max())]

    def cost(self, target: Shape) -> Cost:
        """One pass for every entry of the window."""
        return Cost(math.prod(self.window.out[:-1]) * self.window.taps, True)

    def faults(self, sources: Sequence[Shape], target: Shape) -> Iterator[str]:
        """See ``Operation``."""
        (source,) = sources
        yield from self.window.faults(source, target)
        if self.kind not in POOLS:
            yield f"is a pool of kind {self.kind!r}, expected one of {', '.join(POOLS)}"
        if self.count_padding and len(self.extent) != len(self.window.positions):
            yield f"counts padding as far as {self.extent}, expected an end for each axis of the map"
