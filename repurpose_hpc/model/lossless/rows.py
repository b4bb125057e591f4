"""Weights as lists of entries, row by row, and which rows are multiples of each other.

Everything is O(entries), or a sort of them or of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.lossless.values import NOTHING, ULPS, Columns
from repurpose_hpc.model.weights import SparseWeights, Weights, as_sparse, dense, spans, sparse

# Sums of the same numbers in float64 are not further apart, relative to the sum of their absolute values.
_SAME_SUM = 1e-11


class Rows(NamedTuple):
    """m rows of weights.

    Attributes:
        starts: (m + 1,) int64: row i has entries ``starts[i]`` to ``starts[i + 1]`` - 1.
        columns: (entries,) integers, ascending in a row.
        weights: (entries,) float32 or float64, none of them 0.
        bias: (m,) float64.
    """

    starts: np.ndarray
    columns: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    @property
    def numbers(self) -> np.ndarray:
        """The row of every entry, (entries,)."""
        return np.repeat(np.arange(len(self.bias)), self.counts)

    @property
    def counts(self) -> np.ndarray:
        """Entries of every row, (m,)."""
        return np.diff(self.starts)

    def tiles(self) -> Iterator[tuple[slice, Rows]]:
        """A few rows after the other: which, and these rows."""
        for span in spans(self.starts):
            first, end = self.starts[span.start], self.starts[span.stop]
            starts = self.starts[span.start : span.stop + 1] - first
            yield span, Rows(starts, self.columns[first:end], self.weights[first:end], self.bias[span])

    def sums(self, entries: np.ndarray) -> np.ndarray:
        """The sum of one number for each entry over every row, (m,)."""
        total, filled = np.zeros(len(self.bias), entries.dtype), np.flatnonzero(self.counts)
        if filled.size:
            total[filled] = np.add.reduceat(entries, self.starts[filled])
        return total

    def stored_as(self, weights: Weights) -> tuple[Weights, np.ndarray]:
        """Weights and bias, stored like ``weights``, in their dtype if it holds all of them exactly.

        Else in float64.
        """
        columns, dtype = weights.shape[1], weights.dtype
        numbers = (self.weights, self.bias)
        with np.errstate(over="ignore", under="ignore"):
            is_exact = all((array.astype(dtype) == array).all() for array in numbers)
        dtype = dtype if is_exact else np.dtype(np.float64)
        shape = len(self.bias), columns
        found = sparse(shape, self.numbers, self.columns, self.weights.astype(dtype))
        return (found if isinstance(weights, SparseWeights) else dense(found)), self.bias.astype(dtype)


def rows_of(weights: Weights, bias: np.ndarray) -> Rows:
    """The entries of weights, (m, columns)."""
    rows = as_sparse(weights)
    return Rows(rows.starts, rows.columns, rows.values, bias.astype(np.float64))


def stacked(parts: list[Rows]) -> Rows:
    """Rows of several mixings that read the same columns, one after the other."""
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([0, *(len(rows.weights) for rows in parts)])
    starts = [rows.starts[:-1] + end for rows, end in zip(parts, ends[:-1], strict=True)]
    return Rows(
        np.concatenate([*starts, ends[-1:]]),
        *(np.concatenate([rows[field] for rows in parts]) for field in (1, 2, 3)),
    )


def folded(rows: Rows, columns: Columns, taps: int) -> Rows:
    """The same rows, reading representatives alone: their weights added up, constants in the bias.

    Args:
        rows: of a mixing; column j taps + t is entry t of the kernel for neuron j.
        columns: of its source.
        taps: entries of the kernel.
    """
    neurons, entries = np.divmod(rows.columns, taps)
    constants = columns.constants[neurons]
    bias = rows.bias + rows.sums(rows.weights * constants) if constants.any() else rows.bias
    numbers = rows.numbers
    read = np.flatnonzero(columns.representatives[neurons] >= 0)
    numbers, neurons, entries = numbers[read], neurons[read], entries[read]
    weights = rows.weights[read] * columns.ratios[neurons]
    places = columns.representatives[neurons] * taps + entries
    # In the order of their sizes, so that equal numbers have equal sums in whatever columns they were.
    order = np.lexsort((weights, places, numbers))
    numbers, places, weights = numbers[order], places[order], weights[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (np.diff(numbers) != 0) | (np.diff(places) != 0)
    first = np.flatnonzero(is_first)
    if len(first):
        total, size = np.add.reduceat(weights, first), np.add.reduceat(np.abs(weights), first)
        first, total = (array[np.abs(total) > NOTHING * size] for array in (first, total))
        numbers, places, weights = numbers[first], places[first], total
    starts = np.searchsorted(numbers, np.arange(len(bias) + 1))
    return Rows(starts, places, weights, bias)


def multiples(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are multiples of each other, the bias left out.

    Returns:
        (m,) the first row that a row is a multiple of, perhaps itself; (m,) its factor relative to what all
        of these are multiples of, 0 for rows without entries.
    """
    counts = rows.counts
    leading, factors = np.arange(len(counts)), np.zeros(len(counts))
    filled = np.flatnonzero(counts)
    if not filled.size:
        return leading, factors
    factors[filled] = rows.weights[rows.starts[filled]]
    for alike in _candidates(rows, factors, filled):
        while alike.size > 1:
            places = rows.starts[alike, None] + np.arange(counts[alike[0]])
            scaled = rows.weights[places] / factors[alike, None]
            same = (rows.columns[places] == rows.columns[places[0]]).all(axis=1)
            same &= _are_close(scaled, scaled[0]).all(axis=1)
            leading[alike[same]] = alike[0]
            alike = alike[~same]
    return leading, factors


def _candidates(rows: Rows, factors: np.ndarray, filled: np.ndarray) -> Iterator[np.ndarray]:
    """Sets of rows, ascending, that have as many entries and nearly the same random sum of them.

    All rows with the same entries are in one set.

    Args:
        rows: any.
        factors: by which a row is divided.
        filled: the rows with entries.
    """
    m = len(factors)
    patterns, sums, sizes = np.zeros(m, np.uint64), np.zeros(m), np.zeros(m)
    for span, tile in rows.tiles():
        hashes = _hashes(tile.columns)
        terms = tile.weights / np.repeat(factors[span], tile.counts)
        terms *= 1 + hashes.astype(np.float64) / 2.0**64
        patterns[span] = tile.sums(hashes)  # they wrap around
        sums[span], sizes[span] = tile.sums(terms), tile.sums(np.abs(terms))
    counts, patterns, sums, sizes = (array[filled] for array in (rows.counts, patterns, sums, sizes))
    order = np.lexsort((sums, patterns, counts))
    counts, patterns, sums, sizes = (array[order] for array in (counts, patterns, sums, sizes))
    joins = (np.diff(counts) == 0) & (np.diff(patterns) == 0) & (np.diff(sums) <= _SAME_SUM * sizes[1:])
    for part in np.split(order, np.flatnonzero(~joins) + 1):
        if part.size > 1:
            yield np.sort(filled[part])


def _hashes(numbers: np.ndarray) -> np.ndarray:
    """Well mixed uint64 of integers (splitmix64)."""
    x = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))


def _are_close(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Whether numbers are within ``ULPS`` of each other."""
    return np.abs(left - right) <= ULPS * 2.0**-53 * np.abs(right)
