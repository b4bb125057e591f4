"""What is known of the neurons of a tensor, whatever the input, and numbers for what is equal."""

from __future__ import annotations

import struct
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.operations import Window

# Real numbers that are so many units in the last place of float64 apart are taken for one: that much, a few
# roundings, is what products and quotients of equal numbers differ by.
ULPS = 8
_BUCKET_BITS = 10
# Of a sum that is rounding alone, relative to what was added.
NOTHING = 2.0**-48
# The class of neurons that are constant.
CONSTANT = -1


@dataclass(frozen=True, eq=False)
class Values:
    """Neurons as lines over others: neuron j is ``factors[j] * V + shifts[j]`` at every position.

    V is the map of class ``classes[j]``, the same for all neurons of the class, in whatever tensor.

    Attributes:
        classes: (n,) int64; ``CONSTANT``: there is no V, the factor is 0.
        factors, shifts: (n,) float64.
        low, high: bounds of all values of a neuron, (n,) float64, perhaps infinite.
    """

    classes: np.ndarray
    factors: np.ndarray
    shifts: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of_classes(cls, classes: np.ndarray) -> Values:
        """Neurons of which nothing is known but their classes, (n,)."""
        n = len(classes)
        ends = np.full((2, n), np.array([[-np.inf], [np.inf]]))
        return cls(classes, np.ones(n), np.zeros(n), *ends)

    def __len__(self) -> int:
        return len(self.classes)

    def take(self, index: np.ndarray) -> Values:
        """Some of the neurons."""
        return Values(*(array[index] for array in (self.classes, *self._numbers)))

    def within(self, low: np.ndarray, high: np.ndarray) -> Values:
        """The same with other bounds; those of constants are known."""
        is_constant = self.classes == CONSTANT
        return replace(
            self, low=np.where(is_constant, self.shifts, low), high=np.where(is_constant, self.shifts, high)
        )

    @property
    def _numbers(self) -> tuple[np.ndarray, ...]:
        return self.factors, self.shifts, self.low, self.high


def joined(parts: list[Values]) -> Values:
    """The neurons of several tensors, one after the other."""
    columns = zip(*((part.classes, *part._numbers) for part in parts), strict=True)
    return Values(*map(np.concatenate, columns))


class Line(NamedTuple):
    """One neuron of ``Values``; the key is a class, or says what V is made of and how."""

    key: Hashable
    factor: float
    shift: float


class Numbering:
    """Gives numbers to what is made in the same way from the same."""

    def __init__(self) -> None:
        self._classes: dict[Hashable, int] = {}
        self._count = 0
        self._buckets: dict[int, list[int]] = {}

    def fresh(self, count: int) -> np.ndarray:
        """Classes that nothing had before, (count,)."""
        self._count += count
        return np.arange(self._count - count, self._count)

    def of(self, key: Hashable) -> int:
        """The class of what is made as ``key`` says, which may be a class itself."""
        if isinstance(key, int):
            return key
        if key not in self._classes:
            self._classes[key] = int(self.fresh(1)[0])
        return self._classes[key]

    def real(self, x: float) -> int:
        """A number for a real number, the same for others within ``ULPS``."""
        bits = int(struct.unpack("<q", struct.pack("<d", abs(x) + 0.0))[0])
        bits = ~bits if x < 0 else bits
        bucket = bits >> _BUCKET_BITS
        for near in (bucket, bucket - 1, bucket + 1):
            for known in self._buckets.get(near, ()):
                if abs(known - bits) <= ULPS:
                    return known
        self._buckets.setdefault(bucket, []).append(bits)
        return bits

    def lines(self, lines: list[Line]) -> Values:
        """Neurons with their keys in place of classes; a factor of 0 makes one constant."""
        classes = [CONSTANT if line.factor == 0 else self.of(line.key) for line in lines]
        values = Values.of_classes(np.array(classes, np.int64))
        factors, shifts = (np.array([line[field] for line in lines], np.float64) for field in (1, 2))
        return replace(values, factors=factors, shifts=shifts).within(values.low, values.high)


@lru_cache(maxsize=256)
def is_padded(window: Window | None) -> bool:
    """Whether a window reaches beyond the map, where there are zeros instead of a neuron's constant."""
    return window is not None and bool((window.indices() < 0).any())


def line_of(values: Values, j: int, numbering: Numbering, padded: bool) -> Line:
    """Neuron j for an operation; for one that sees beyond the border, where all is 0, without a shift."""
    key, factor, shift = int(values.classes[j]), float(values.factors[j]), float(values.shifts[j])
    if not padded or shift == 0:
        return Line(key, factor, shift)
    if factor == 0:
        return Line("one", shift, 0.0)
    return Line((key, numbering.real(shift / factor)), factor, 0.0)


def whole(values: Values, j: int, numbering: Numbering) -> Hashable:
    """Neuron j with its factor and its shift, as a key."""
    numbers = float(values.factors[j]), float(values.shifts[j])
    return (int(values.classes[j]), *map(numbering.real, numbers))


class Columns(NamedTuple):
    """Neurons of a tensor in terms of some of them: x_j = ratio_j x_r + constant_j, r the representative.

    Attributes:
        representatives: (n,) int64, -1 where there is the constant alone.
        ratios, constants: (n,) float64.
    """

    representatives: np.ndarray
    ratios: np.ndarray
    constants: np.ndarray

    @property
    def is_plain(self) -> bool:
        """Whether every neuron stands for itself alone."""
        return bool((self.representatives == np.arange(len(self.representatives))).all())


def columns_of(values: Values, padded: bool, numbering: Numbering) -> Columns:
    """What an operation that reads the tensor may read instead of each of its neurons.

    Args:
        values: of the tensor.
        padded: whether it reads beyond the border of maps, where no neuron is its constant.
        numbering: of real numbers.
    """
    n = len(values)
    representatives, ratios, constants = np.full(n, -1), np.zeros(n), np.zeros(n)
    first: dict[Hashable, tuple[int, float]] = {}  # a representative and its factor
    for j in range(n):
        key, factor, shift = line_of(values, j, numbering, padded)
        if factor == 0:
            constants[j] = shift
            continue
        r, factor_of_r = first.setdefault(key, (j, factor))
        representatives[j], ratios[j] = r, factor / factor_of_r
        if not padded:
            constant = shift - ratios[j] * values.shifts[r]
            constants[j] = 0.0 if abs(constant) <= NOTHING * abs(shift) else constant
    return Columns(representatives, ratios, constants)
