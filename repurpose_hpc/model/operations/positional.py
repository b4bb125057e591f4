"""Operations that depend on the position in a sequence: a table that is added, and rotations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.model.operations.operation import (
    Cost,
    OneSource,
    Rows,
    Shape,
    dtype_faults,
    operation,
    same_positions,
)
from repurpose_hpc.model.operations.patches import as_map, split


@operation
@dataclass(frozen=True, eq=False)
class PositionTable(OneSource):
    """``target = source + table[:, position]``: positions that were learned, or sinusoidal ones.

    Attributes:
        table: (neurons, positions that there may be).
    """

    looks_around = True

    name: str
    source: str
    target: str
    table: np.ndarray

    def compute(self, *sources: np.ndarray) -> np.ndarray:
        """See ``Operation``."""
        (x,) = sources
        positions = as_map(x).shape[2]
        terms = self.table[:, None, :positions].astype(x.dtype, copy=False)
        return (as_map(x) + terms).reshape(x.shape)

    def vjp(self, g: np.ndarray, target: np.ndarray, *sources: np.ndarray) -> list[np.ndarray]:
        """See ``Operation``."""
        return [g]

    def restricted(self, target: Rows, *sources: Rows) -> PositionTable:
        """See ``Operation``."""
        return replace(self, table=self.table[target.neurons])

    def gain(self, sources: Sequence[Shape], target: Shape) -> list[float]:
        """What is added is the same for every sample."""
        return [1.0]

    def cost(self, target: Shape) -> Cost:
        """One pass over all values."""
        return Cost(target.values, False)

    def faults(self, sources: Sequence[Shape], target: Shape) -> Iterator[str]:
        """See ``Operation``."""
        (source,) = sources
        yield from same_positions(source, target)
        yield from dtype_faults(table=self.table)
        if self.table.ndim != 2 or len(self.table) != source.neurons or self.table.shape[1] < source.values:
            yield (
                f"expected a table of {source.neurons} neurons and {source.values} positions or more, found "
                f"shape {self.table.shape}"
            )


@operation
@dataclass(frozen=True, eq=False)
class Rotary(OneSource):
    """Rotations of pairs of neurons of a head by an angle that grows with the position (RoPE).

    Pair i of a head is turned by position x ``frequencies[i]``; a head's neurons behind all pairs stay.
    A head has one owner.

    Attributes:
        heads: one after the other among the neurons.
        frequencies: radians per position, (pairs of a head,).
        interleaved: pairs are neighbours, (2 i, 2 i + 1); else halves, (i, i + pairs).
        factor: of what is turned.
    """

    looks_around = True

    name: str
    source: str
    target: str
    heads: int
    frequencies: np.ndarray
    interleaved: bool = False
    factor: float = 1.0

    @property
    def pairs(self) -> int:
        """Pairs of a head."""
        return len(self.frequencies)

    def members(self) -> tuple[np.ndarray, np.ndarray]:
        """The first and the second neuron of every pair of a head, (pairs,) each."""
        numbers = np.arange(self.pairs)
        return (2 * numbers, 2 * numbers + 1) if self.interleaved else (numbers, numbers + self.pairs)

    def angles(self, positions: int) -> np.ndarray:
        """Radians of every pair of a head, (pairs, positions) float64."""
        return self.frequencies.astype(np.float64)[:, None] * np.arange(positions)

    def compute(self, *sources: np.ndarray) -> np.ndarray:
        """See ``Operation``."""
        return self._turned(sources[0], 1.0)

    def vjp(self, g: np.ndarray, target: np.ndarray, *sources: np.ndarray) -> list[np.ndarray]:
        """See ``Operation``: a rotation by the opposite angle."""
        return [self._turned(g, -1.0)]

    def restricted(self, target: Rows, *sources: Rows) -> Rotary:
        """See ``Operation``: of the heads that are there."""
        return replace(self, heads=target.parts(self.heads).size)

    def _turned(self, x: np.ndarray, direction: float) -> np.ndarray:
        if not self.heads:  # of no size either
            return x
        by_head = split(as_map(x), self.heads)
        angles = direction * self.angles(by_head.shape[3])
        cos, sin = (
            (self.factor * function(angles)).astype(x.dtype)[None, :, None] for function in (np.cos, np.sin)
        )
        first, second = self.members()
        left, right = by_head[:, first], by_head[:, second]
        result = by_head.copy()
        result[:, first], result[:, second] = left * cos - right * sin, right * cos + left * sin
        return result.reshape(x.shape)

    def gain(self, sources: Sequence[Shape], target: Shape) -> list[float]:
        """Rotations keep lengths."""
        return [max(1.0, abs(self.factor))]

    def cost(self, target: Shape) -> Cost:
        """One pass over all values."""
        return Cost(target.values, False)

    def ties(self, *sources: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """The neurons of each head."""
        by_head = sources[0].reshape(self.heads, -1)
        return [(np.broadcast_to(by_head[:, :1], by_head.shape).ravel(), by_head.ravel())]

    def faults(self, sources: Sequence[Shape], target: Shape) -> Iterator[str]:
        """See ``Operation``."""
        (source,) = sources
        yield from same_positions(source, target)
        yield from dtype_faults(frequencies=self.frequencies)
        if self.heads < 1 or source.neurons % self.heads:
            yield f"has {self.heads} heads of {source.neurons} neurons"
        elif self.frequencies.ndim != 1 or 2 * self.pairs > source.neurons // self.heads:
            yield f"turns {self.frequencies.shape} pairs of heads of {source.neurons // self.heads} neurons"
