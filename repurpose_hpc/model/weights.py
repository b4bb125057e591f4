"""Weights of a mixing, dense or sparse: all of an (m, n) array, or the entries of it that are not zero.

What does not depend on the storage goes over *entries*, some rows at a time: nothing but ``dense`` makes a
dense array of sparse weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, overload

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csc_array, csr_array

# Weights that are not zero, of all, where products with them alone are faster for any number of samples (see
# ``kernels.products.crossover``); and weights that are worth the while.
FEW, FEWEST = 1 / 16, 1 << 16
# Entries that are looked at together, so that what is computed of them needs little memory.
_TILE = 1 << 22


@dataclass(frozen=True, eq=False)
class SparseWeights:
    """Weights in compressed sparse rows.

    Attributes:
        shape: (m, n).
        starts: (m + 1,) int64: row i has entries ``starts[i]`` to ``starts[i + 1]`` - 1.
        columns: (entries,) int32, ascending in a row, none twice.
        values: (entries,) float32 or float64, none of them 0.
    """

    shape: tuple[int, int]
    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    ndim = 2

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        return self.values.dtype

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.values.size

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.starts.nbytes + self.columns.nbytes + self.values.nbytes

    @property
    def counts(self) -> np.ndarray:
        """Entries of every row, (m,)."""
        return np.diff(self.starts)

    def astype(self, dtype: np.dtype | type, copy: bool = True) -> SparseWeights:
        """The same with values of ``dtype``, without those that are 0 in it."""
        values = self.values.astype(dtype, copy=copy)
        if self.dtype == values.dtype or values.all():
            return replace(self, values=values)
        return sparse(self.shape, self.rows, self.columns, values)

    @property
    def rows(self) -> np.ndarray:
        """The row of every entry, (entries,)."""
        return np.repeat(np.arange(len(self)), self.counts)

    def faults(self) -> Iterator[str]:
        """What is not as the class says, in words."""
        m, n = self.shape
        starts, columns = self.starts, self.columns
        if starts.shape != (m + 1,) or starts.dtype != np.int64 or columns.dtype != np.int32:
            yield f"has starts {starts.dtype} of shape {starts.shape} and columns {columns.dtype}"
        elif columns.shape != self.values.shape or columns.ndim != 1:
            yield f"has {self.values.shape} values in {columns.shape} columns"
        elif starts[0] != 0 or starts[-1] != columns.size or (self.counts < 0).any():
            yield f"has rows that do not end at its {columns.size} entries, one after the other"
        elif columns.size and not 0 <= columns.min() <= columns.max() < n:
            yield f"has columns from {columns.min()} to {columns.max()}, expected 0 to {n - 1}"
        else:
            steps, firsts = np.diff(columns), self.starts[1:-1]
            steps[firsts[(firsts > 0) & (firsts < columns.size)] - 1] = 1
            if (steps <= 0).any():
                yield "has columns that do not ascend in their row"
            if not self.values.all():
                yield "has entries that are 0"

    @cached_property
    def matrix(self) -> csr_array:
        """The same for SciPy; shares the memory."""
        from scipy.sparse import csr_array  # takes long, and a run has no need of it

        return csr_array((self.values, self.columns, self.starts), self.shape)

    @property
    def T(self) -> csc_array:
        """The transposed matrix, for products."""
        return self.matrix.T

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        return self.matrix @ x


Weights: TypeAlias = np.ndarray | SparseWeights


class Entries(NamedTuple):
    """Entries of some rows, by rows and columns.

    Attributes:
        rows, columns: (entries,) integers.
        values: (entries,), none of them 0.
    """

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray


def sparse(
    shape: tuple[int, int], rows: np.ndarray, columns: np.ndarray, values: np.ndarray
) -> SparseWeights:
    """Weights from their entries, in any order; none is there twice, and zeros are left out.

    Args:
        shape: (m, n).
        rows, columns: (entries,) integers.
        values: (entries,).
    """
    filled = np.flatnonzero(values)
    if filled.size < values.size:
        rows, columns, values = rows[filled], columns[filled], values[filled]
    place = rows.astype(np.int64) * shape[1] + columns
    if (np.diff(place) < 0).any():
        order = np.argsort(place, kind="stable")
        rows, columns, values = rows[order], columns[order], values[order]
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=shape[0]))])
    return SparseWeights(shape, starts.astype(np.int64), columns.astype(np.int32), values)


def as_sparse(weights: Weights) -> SparseWeights:
    """The same weights, stored sparse."""
    if isinstance(weights, SparseWeights):
        return weights
    nothing = np.empty(0, np.int64)
    found = [*entries(weights), Entries(nothing, nothing, weights[:0].ravel())]
    rows, columns, values = (np.concatenate([each[i] for each in found]) for i in range(3))
    return sparse(weights.shape, rows, columns, values)


def compact(weights: Weights) -> Weights:
    """The same weights, stored sparse if hardly any are not zero and there are many."""
    if not isinstance(weights, np.ndarray) or weights.size < FEWEST:
        return weights
    return as_sparse(weights) if np.count_nonzero(weights) < FEW * weights.size else weights


def dense(weights: Weights) -> np.ndarray:
    """All of the array, (m, n)."""
    if not isinstance(weights, SparseWeights):
        return weights
    array = np.zeros(weights.shape, weights.dtype)
    for rows, columns, values in entries(weights):
        array[rows, columns] = values
    return array


def nonzeros(weights: Weights) -> int:
    """Number of weights that are not zero."""
    return int(weights.size if isinstance(weights, SparseWeights) else np.count_nonzero(weights))


def spans(starts: np.ndarray) -> Iterator[slice]:
    """Rows with ``_TILE`` entries together, or single ones with more.

    Args:
        starts: of every row the number of entries before it, and that of all; (m + 1,).
    """
    first, m = 0, len(starts) - 1
    while first < m:
        end = int(np.searchsorted(starts, starts[first] + _TILE, side="right")) - 1
        end = min(max(end, first + 1), m)
        yield slice(first, end)
        first = end


def entries(weights: Weights) -> Iterator[Entries]:
    """The entries, some rows at a time."""
    if isinstance(weights, SparseWeights):
        for span in spans(weights.starts):
            counts = np.diff(weights.starts[span.start : span.stop + 1])
            here = slice(weights.starts[span.start], weights.starts[span.stop])
            rows = np.repeat(np.arange(span.start, span.stop), counts)
            yield Entries(rows, weights.columns[here], weights.values[here])
        return
    m, n = weights.shape
    for span in spans(np.arange(m + 1) * n):
        part = weights[span]
        rows, columns = np.nonzero(part)
        yield Entries(rows + span.start, columns, part[rows, columns])


def are_same(left: Weights, right: Weights) -> bool:
    """Whether weights are equal, and stored alike."""
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return np.array_equal(left, right)
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return False
    same_values = np.array_equal(left.values, right.values)
    return (
        left.shape == right.shape
        and same_values
        and np.array_equal(left.columns, right.columns)
        and np.array_equal(left.starts, right.starts)
    )


def column_numbers(neurons: np.ndarray, taps: int) -> np.ndarray:
    """The columns of some neurons, neuron by neuron, (neurons taps,); of one tap the neurons themselves."""
    return (neurons[:, None] * taps + np.arange(taps)).ravel() if taps > 1 else neurons


def values_of(weights: Weights) -> np.ndarray:
    """The numbers that are stored, in an array of any shape."""
    return weights.values if isinstance(weights, SparseWeights) else weights


def linked(weights: np.ndarray, taps: int) -> np.ndarray:
    """Dependences between neurons: bool (m, n), true where any of the k weights of two is not zero.

    Args:
        weights: (m, n k).
        taps: k.
    """
    return (weights != 0).reshape(len(weights), -1, taps).any(axis=2)


def alike_together(weights: SparseWeights) -> np.ndarray:
    """The rows in an order in which those with entries in the same columns follow one another, (m,)."""
    counts, filled = weights.counts, np.flatnonzero(weights.counts)
    first, patterns = np.zeros(len(weights), np.int64), np.zeros(len(weights), np.uint64)
    first[filled] = weights.columns[weights.starts[filled]]
    if filled.size:
        # Sums of well mixed numbers wrap around; rows with equal ones are alike but for rare accidents.
        mixed = (weights.columns.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        patterns[filled] = np.add.reduceat(mixed * mixed, weights.starts[filled])
    return np.lexsort((patterns, counts, first))


def _run_ends(weights: SparseWeights) -> np.ndarray:
    """The last row of each run of rows that have entries in the same columns, (runs,)."""
    counts, rows = weights.counts, weights.rows
    next_one = np.minimum(np.arange(weights.size) + counts[rows], weights.size - 1)
    others = np.bincount(rows[weights.columns != weights.columns[next_one]], minlength=len(weights))
    is_last = np.ones(len(weights), bool)
    is_last[:-1] = (np.diff(counts) != 0) | (others[:-1] != 0)
    return np.flatnonzero(is_last)


def runs_of_alike(weights: SparseWeights) -> np.ndarray:
    """Of every row how many from it on, itself among them, have entries in the same columns, (m,) int64."""
    ends, rows = _run_ends(weights), np.arange(len(weights))
    return ends[np.searchsorted(ends, rows)] + 1 - rows


def alike_share(weights: SparseWeights, count: int) -> float:
    """Part of the entries that are in rows of which ``count`` or more have entries in the same columns."""
    if not weights.size:
        return 0.0
    ordered = picked(weights, alike_together(weights), np.arange(weights.shape[1]))
    ends = _run_ends(ordered)
    lengths = np.diff(ends, prepend=-1)
    return float((lengths * ordered.counts[ends])[lengths >= count].sum() / weights.size)


def ones_like(weights: Weights) -> Weights:
    """Weights that are all 1, of sparse ones those that are not zero."""
    if isinstance(weights, SparseWeights):
        return replace(weights, values=np.ones_like(weights.values))
    return np.ones_like(weights)


def scaled(weights: Weights, factors: np.ndarray) -> Weights:
    """Every row times a factor, (m,); in the dtype of the product."""
    if not isinstance(weights, SparseWeights):
        return weights * factors[:, None]
    rows = weights.rows
    return sparse(weights.shape, rows, weights.columns, weights.values * factors[rows])


@overload
def picked(weights: SparseWeights, rows: np.ndarray, columns: np.ndarray) -> SparseWeights: ...
@overload
def picked(weights: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray: ...


def picked(weights: Weights, rows: np.ndarray, columns: np.ndarray) -> Weights:
    """Some rows and columns, in the order in which they are given, none twice; a copy."""
    if not isinstance(weights, SparseWeights):
        return weights[np.ix_(rows, columns)]
    counts, starts = weights.counts[rows], weights.starts[rows]
    numbers = np.repeat(np.arange(rows.size), counts)
    of_rows = np.arange(numbers.size) + np.repeat(starts - np.cumsum(counts) + counts, counts)
    place = np.full(weights.shape[1], -1, np.int32)
    place[columns] = np.arange(columns.size)
    places = place[weights.columns[of_rows]]
    here = np.flatnonzero(places >= 0)
    return sparse((rows.size, columns.size), numbers[here], places[here], weights.values[of_rows[here]])


def kept(weights: Weights, keep: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Weights:
    """The weights with zeros wherever a function of rows and columns, (entries,) each, is false; a copy."""
    if isinstance(weights, SparseWeights):
        masks = [keep(each.rows, each.columns) for each in entries(weights)]
        stay = np.flatnonzero(np.concatenate([*masks, np.empty(0, bool)]))
        return sparse(weights.shape, weights.rows[stay], weights.columns[stay], weights.values[stay])
    result = weights.copy()
    for rows, columns, _ in entries(weights):
        gone = ~keep(rows, columns)
        result[rows[gone], columns[gone]] = 0
    return result
