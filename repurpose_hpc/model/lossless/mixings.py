"""The rule of mixings: which of their rows are multiples of each other, and what they may read instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.lossless.rows import Rows, folded, multiples, rows_of, stacked
from repurpose_hpc.model.lossless.values import CONSTANT, Numbering, Values, columns_of, is_padded
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.model.weights import are_same


def analysed(
    mixings: Sequence[Mixing], source: Values, numbering: Numbering
) -> tuple[list[Mixing], list[Values]]:
    """Mixings that read one tensor through the same window, reading no neuron that others stand for.

    Args:
        mixings: some.
        source: what is known of the tensor.
        numbering: gives numbers to classes.

    Returns:
        The mixings, and what is known of their targets.  A fixed one stays as it is.
    """
    window, taps = mixings[0].window, mixings[0].taps
    padded = is_padded(window)
    columns = columns_of(source, padded, numbering)
    parts = []
    for mixing in mixings:
        rows = rows_of(mixing.weights, mixing.bias)
        parts.append(rows if columns.is_plain else folded(rows, columns, taps))
    changed = [
        mixing if mixing.fixed or columns.is_plain else _with_rows(mixing, rows)
        for mixing, rows in zip(mixings, parts, strict=True)
    ]
    rows = stacked(parts)
    values = _classes(rows, numbering)
    if taps == 1 and not padded and (window is None or window.is_pointwise):
        values = _through(values, rows, source)
    values = _bounded(values, rows, source, taps, padded)
    ends = np.cumsum([0, *(len(part.bias) for part in parts)])
    spans = (np.arange(first, end) for first, end in zip(ends[:-1], ends[1:], strict=True))
    return changed, [values.take(span) for span in spans]


def _with_rows(mixing: Mixing, rows: Rows) -> Mixing:
    """The mixing with other weights; itself if they are the same."""
    weights, bias = rows.stored_as(mixing.weights)
    if are_same(weights, mixing.weights) and np.array_equal(bias, mixing.bias):
        return mixing
    return replace(mixing, weights=weights, bias=bias)


def _classes(rows: Rows, numbering: Numbering) -> Values:
    """A class for all rows that are multiples of each other; the bias is their shift."""
    leading, factors = multiples(rows)
    first, place = np.unique(leading, return_inverse=True)
    classes = np.where(factors == 0, CONSTANT, numbering.fresh(len(first))[place])
    return replace(Values.of_classes(classes), factors=factors, shifts=rows.bias)


def _through(values: Values, rows: Rows, source: Values) -> Values:
    """The same where rows of one entry are lines over what their source is one over."""
    single = np.flatnonzero(rows.counts == 1)
    entries = rows.starts[single]
    read = source.take(rows.columns[entries])
    classes, factors, shifts = values.classes.copy(), values.factors.copy(), values.shifts.copy()
    classes[single] = read.classes
    factors[single] = rows.weights[entries] * read.factors
    shifts[single] += rows.weights[entries] * read.shifts
    return replace(values, classes=classes, factors=factors, shifts=shifts)


def _bounded(values: Values, rows: Rows, source: Values, taps: int, padded: bool) -> Values:
    """The same with bounds, from those of the neurons that each row reads."""
    low, high = source.low, source.high
    if np.isinf(low).all() and np.isinf(high).all():
        return values.within(values.low, values.high)
    if padded:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    lowest, highest = np.zeros((2, len(rows.bias)))
    for span, tile in rows.tiles():
        neurons, above = tile.columns // taps, tile.weights > 0
        lowest[span] = tile.sums(tile.weights * np.where(above, low[neurons], high[neurons]))
        highest[span] = tile.sums(tile.weights * np.where(above, high[neurons], low[neurons]))
    return values.within(lowest + rows.bias, highest + rows.bias)
