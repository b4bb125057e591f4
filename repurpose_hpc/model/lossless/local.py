"""Rules of the operations that work neuron by neuron: what their targets are in terms of their sources.

An operation without a rule keeps all its neurons, and nothing is known of those of its target.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from repurpose_hpc.model.activations import activate, image, is_homogeneous, pieces
from repurpose_hpc.model.lossless.values import (
    NOTHING,
    Line,
    Numbering,
    Values,
    is_padded,
    joined,
    line_of,
    whole,
)
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import (
    COMBINATIONS,
    Affine,
    Combine,
    Depthwise,
    Elementwise,
    Operation,
    Pool,
    PositionTable,
    Rearrange,
    Select,
)
from repurpose_hpc.model.registry import entered

# Of an operation, the numbering, the network, and what is known of each source.
Rule = Callable[..., Values]
RULES: dict[type[Operation], Rule] = {}


def rule(kind: type[Operation]) -> Callable[[Rule], Rule]:
    """Enter a function into ``RULES``, as what finds the values of the target."""
    return entered(RULES, kind)


@rule(Select)
def _select(op: Select, numbering: Numbering, network: Network, *sources: Values) -> Values:
    return joined(list(sources)).take(op.index)


@rule(Elementwise)
def _elementwise(op: Elementwise, numbering: Numbering, network: Network, source: Values) -> Values:
    slopes, shifts = straight(op, source)
    homogeneous, lines = is_homogeneous(op.activation), []
    key: Hashable
    constants = activate(op.activation, source.shifts)
    for j in range(len(source)):
        factor, shift = float(source.factors[j]), float(source.shifts[j])
        if factor == 0 and np.isfinite(constants[j]):
            lines.append(Line(None, 0.0, float(constants[j])))
        elif not np.isnan(slopes[j]):
            key = int(source.classes[j])
            lines.append(Line(key, slopes[j] * factor, slopes[j] * shift + shifts[j]))
        elif homogeneous and factor:
            key = op.activation, int(source.classes[j]), factor > 0, numbering.real(shift / abs(factor))
            lines.append(Line(key, abs(factor), 0.0))
        else:
            lines.append(Line((op.activation, whole(source, j, numbering)), 1.0, 0.0))
    return numbering.lines(lines).within(*image(op.activation, source.low, source.high))


def straight(op: Elementwise, source: Values) -> tuple[np.ndarray, np.ndarray]:
    """Slope and shift of the activation of every neuron that bounds keep on one straight line, else NaN."""
    slopes, shifts = np.full((2, len(source)), np.nan)
    for piece in pieces(op.activation):
        inside = (source.low >= piece.low) & (source.high <= piece.high)
        slopes[inside], shifts[inside] = piece.slope, piece.shift
    return slopes, shifts


@rule(Affine)
def _affine(op: Affine, numbering: Numbering, network: Network, source: Values) -> Values:
    scale, shift = op.scale.astype(np.float64), op.shift.astype(np.float64)
    even = (scale == scale[:, :1]).all(axis=1) & (shift == shift[:, :1]).all(axis=1)
    lines = []
    for j in range(len(source)):
        a, b = float(scale[j, 0]), float(shift[j, 0])
        if even[j]:
            key: Hashable = int(source.classes[j])
            lines.append(Line(key, a * source.factors[j], a * source.shifts[j] + b))
        else:
            key = "affine", scale[j].tobytes(), shift[j].tobytes(), whole(source, j, numbering)
            lines.append(Line(key, 1.0, 0.0))
    ends = np.stack(
        [_times(end[:, None], scale) + shift for end in (source.low, source.high)]
    )  # (2, n, positions)
    return numbering.lines(lines).within(ends.min(axis=(0, 2)), ends.max(axis=(0, 2)))


@rule(PositionTable)
def _position_table(op: PositionTable, numbering: Numbering, network: Network, source: Values) -> Values:
    keys = [("table", row.tobytes(), whole(source, j, numbering)) for j, row in enumerate(op.table)]
    values = numbering.lines([Line(key, 1.0, 0.0) for key in keys])
    return values.within(source.low + op.table.min(axis=1), source.high + op.table.max(axis=1))


@rule(Depthwise)
def _depthwise(op: Depthwise, numbering: Numbering, network: Network, source: Values) -> Values:
    weights, bias = op.weights.astype(np.float64), op.bias.astype(np.float64)
    padded = is_padded(op.window)
    lines = []
    for j, row in enumerate(weights):
        key, factor, shift = line_of(source, j, numbering, padded)
        shift = bias[j] + shift * row.sum()
        taps = np.flatnonzero(row)
        if not taps.size or factor == 0:
            lines.append(Line(None, 0.0, shift))
            continue
        scaled = [(int(tap), numbering.real(row[tap] / row[taps[0]])) for tap in taps]
        lines.append(Line(("depthwise", op.window, key, *scaled), factor * row[taps[0]], shift))
    low, high = _with_padding(source, padded)
    above, below = np.maximum(weights, 0), np.minimum(weights, 0)
    lowest = _times(low[:, None], above) + _times(high[:, None], below)
    highest = _times(high[:, None], above) + _times(low[:, None], below)
    return numbering.lines(lines).within(lowest.sum(axis=1) + bias, highest.sum(axis=1) + bias)


@rule(Pool)
def _pool(op: Pool, numbering: Numbering, network: Network, source: Values) -> Values:
    padded = op.kind == "average" and op.count_padding
    form = op.kind, op.window, op.count_padding, op.extent
    lines = []
    for j in range(len(source)):
        key, factor, shift = line_of(source, j, numbering, padded)
        if op.kind == "max":
            lines.append(Line((form, key, factor > 0), abs(factor), shift))
        else:
            lines.append(Line((form, key), factor, shift))
    return numbering.lines(lines).within(*_with_padding(source, padded))


@rule(Rearrange)
def _rearrange(op: Rearrange, numbering: Numbering, network: Network, source: Values) -> Values:
    padded = bool((op.index < 0).any())
    form = "rearranged", op.index.tobytes(), op.fill
    lines = []
    for j in range(len(source)):
        if padded and op.fill:
            lines.append(Line((form, whole(source, j, numbering)), 1.0, 0.0))
        else:
            key, factor, shift = line_of(source, j, numbering, padded)
            lines.append(Line((form, key), factor, shift))
    return numbering.lines(lines).within(*_with_padding(source, padded, op.fill))


def _with_padding(source: Values, padded: bool, fill: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the neurons, and of what stands beyond their borders if that is seen."""
    if not padded:
        return source.low, source.high
    return np.minimum(source.low, fill), np.maximum(source.high, fill)


@rule(Combine)
def _combine(op: Combine, numbering: Numbering, network: Network, left: Values, right: Values) -> Values:
    same = len({network.values(source) for source in op.sources}) == 1
    form = "combined", op.kind, tuple(network.values(source) for source in op.sources)
    line = _LINES.get(op.kind) if same else None
    lines = []
    with np.errstate(all="ignore"):
        constants = COMBINATIONS[op.kind].value(left.shifts, right.shifts)
    for j in range(len(left)):
        found = None
        if left.factors[j] == right.factors[j] == 0 and np.isfinite(constants[j]):
            found = Line(None, 0.0, float(constants[j]))
        elif line is not None:
            found = line(left, right, j, numbering)
        keys = (form, *(whole(values, j, numbering) for values in (left, right)))
        lines.append(found or Line(keys, 1.0, 0.0))
    return numbering.lines(lines).within(*_COMBINED_ENDS.get(op.kind, _unbounded)(left, right))


def _sum(left: Values, right: Values, j: int, numbering: Numbering, sign: float = 1.0) -> Line:
    terms = {int(left.classes[j]): float(left.factors[j])}
    key, factor = int(right.classes[j]), sign * float(right.factors[j])
    total = terms.get(key, 0.0) + factor
    terms[key] = 0.0 if abs(total) <= NOTHING * abs(factor) else total
    shift = float(left.shifts[j]) + sign * float(right.shifts[j])
    items = sorted((key, factor) for key, factor in terms.items() if factor)
    if not items:
        return Line(None, 0.0, shift)
    (first, factor), *others = items
    if not others:
        return Line(first, factor, shift)
    ((second, other),) = others
    return Line(("sum", first, second, numbering.real(other / factor)), factor, shift)


def _difference(left: Values, right: Values, j: int, numbering: Numbering) -> Line:
    return _sum(left, right, j, numbering, -1.0)


def _product(left: Values, right: Values, j: int, numbering: Numbering) -> Line | None:
    for constant, other in ((left, right), (right, left)):
        if constant.factors[j] == 0:
            number = float(constant.shifts[j])
            return Line(int(other.classes[j]), number * other.factors[j], number * other.shifts[j])
    if left.shifts[j] or right.shifts[j]:
        return None
    key = "product", *sorted((int(left.classes[j]), int(right.classes[j])))
    return Line(key, float(left.factors[j] * right.factors[j]), 0.0)


_LINES: dict[str, Callable[..., Line | None]] = {"add": _sum, "subtract": _difference, "multiply": _product}


def _unbounded(left: Values, right: Values) -> tuple[np.ndarray, np.ndarray]:
    return np.full(len(left), -np.inf), np.full(len(left), np.inf)


def _product_ends(left: Values, right: Values) -> tuple[np.ndarray, np.ndarray]:
    ends = np.stack([_times(a, b) for a in (left.low, left.high) for b in (right.low, right.high)])
    return ends.min(axis=0), ends.max(axis=0)


_COMBINED_ENDS: dict[str, Callable[[Values, Values], Any]] = {
    "add": lambda left, right: (left.low + right.low, left.high + right.high),
    "subtract": lambda left, right: (left.low - right.high, left.high - right.low),
    "multiply": _product_ends,
    "maximum": lambda left, right: (np.maximum(left.low, right.low), np.maximum(left.high, right.high)),
    "minimum": lambda left, right: (np.minimum(left.low, right.low), np.minimum(left.high, right.high)),
    "mask": lambda left, right: (np.minimum(right.low, 0), np.maximum(right.high, 0)),
}


def _times(ends: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Products of perhaps infinite ends with numbers; 0 times anything is 0."""
    with np.errstate(invalid="ignore"):
        return np.where((ends == 0) | (factors == 0), 0.0, ends * factors)
