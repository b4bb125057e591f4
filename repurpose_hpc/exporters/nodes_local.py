"""Operations that work value by value, or bring values elsewhere, as nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from repurpose_hpc.exporters.expressions import activated
from repurpose_hpc.exporters.graph import Graph, Value
from repurpose_hpc.exporters.registry import exports
from repurpose_hpc.model.operations import (
    COMBINATIONS,
    Affine,
    Combine,
    Elementwise,
    Rearrange,
    Select,
    Shape,
    Stitch,
)


@exports(Elementwise)
def _elementwise(op: Elementwise, graph: Graph, sources: Sequence[Value], target: Shape) -> Value:
    (x,) = sources
    return x._replace(name=activated(graph, x.name, op.activation))


@exports(Affine)
def _affine(op: Affine, graph: Graph, sources: Sequence[Value], target: Shape) -> Value:
    (x,) = sources
    if (op.scale != 1).any():
        x = x._replace(name=graph.add("Mul", x.name, graph.by_neuron("scale", op.scale, x)))
    if op.shift.any():
        x = x._replace(name=graph.add("Add", x.name, graph.by_neuron("shift", op.shift, x)))
    return x


@exports(Combine)
def _combine(op: Combine, graph: Graph, sources: Sequence[Value], target: Shape) -> Value:
    neurons_last = any(value.neurons_last for value in sources)
    left, right = (_broadcasting(graph, value, target, neurons_last) for value in sources)
    if op.kind == "mask":
        where = graph.cast(left.name, "bool")
        name = graph.add("Where", where, right.name, graph.number(0))
    else:
        name = graph.add(COMBINATIONS[op.kind].onnx[0], left.name, right.name)
    return Value(name, target, left.neurons_last)


def _broadcasting(graph: Graph, value: Value, target: Shape, neurons_last: bool) -> Value:
    """A tensor with the axes of the target, of one position where it counts for all."""
    if not value.shape.positions:  # a vector lies in either way
        value = value._replace(neurons_last=neurons_last)
    ones = (1,) * len(target.positions)
    positions = target.positions if value.shape.values == target.values else ones
    return graph.shaped(graph.laid(value, neurons_last), positions)


@exports(Select)
def _select(op: Select, graph: Graph, sources: Sequence[Value], target: Shape) -> Value:
    neurons_last = any(value.neurons_last for value in sources)
    alike = [_broadcasting(graph, value, target, neurons_last) for value in sources]
    return graph.picked(graph.joined(alike), op.index)


@exports(Rearrange)
def _rearrange(op: Rearrange, graph: Graph, sources: Sequence[Value], target: Shape) -> Value:
    (x,) = sources
    index, before = op.index, x.shape.positions
    after = target.positions if len(target.positions) == len(before) else (index.size,)
    taken, whole = index.reshape(after), np.arange(x.shape.values).reshape(before)
    for written in (_sliced, _padded):
        if taken.ndim == whole.ndim and (result := written(op, graph, x, taken, whole)) is not None:
            return result
    return _gathered(op, graph, graph.shaped(x, (x.shape.values,)), target)


@exports(Stitch)
def _stitch(op: Stitch, graph: Graph, sources: Sequence[Value], target: Shape) -> Value:
    neurons_last = sources[0].neurons_last
    flat = [graph.shaped(graph.laid(x, neurons_last), (x.shape.values,)) for x in sources]
    axis = 1 if neurons_last else 2
    name = graph.add("Concat", *(x.name for x in flat), axis=axis)
    if not np.array_equal(op.index, np.arange(sum(x.shape.values for x in sources))):
        name = graph.add("Gather", name, graph.constant("index", op.index), axis=axis)
    whole = flat[0]._replace(name=name, shape=Shape(target.neurons, (target.values,)))
    return graph.shaped(whole, target.positions)


def _sliced(op: Rearrange, graph: Graph, x: Value, taken: np.ndarray, whole: np.ndarray) -> Value | None:
    """A box of the map, None if it is none."""
    if taken.min() < 0:
        return None
    first, last = (np.array(np.unravel_index(taken.flat[place], whole.shape)) for place in (0, -1))
    box = whole[tuple(map(slice, first, last + 1))]
    if not np.array_equal(box, taken):
        return None
    axes = np.flatnonzero(np.array(taken.shape) < whole.shape)
    if not axes.size:
        return x
    axis = 1 if x.neurons_last else 2
    bounds = (graph.integers(each) for each in (first[axes], last[axes] + 1, axes + axis))
    return x._replace(name=graph.add("Slice", x.name, *bounds), shape=Shape(x.shape.neurons, taken.shape))


def _padded(op: Rearrange, graph: Graph, x: Value, taken: np.ndarray, whole: np.ndarray) -> Value | None:
    """The map with numbers around it, None if it is anything else."""
    inside = np.argwhere(taken >= 0)
    if not len(inside):
        return None
    first, end = inside.min(axis=0), inside.max(axis=0) + 1
    if not np.array_equal(taken[tuple(map(slice, first, end))], whole):
        return None
    widths = []
    for pads in (first, taken.shape - end):
        widths += [0, *pads, 0] if x.neurons_last else [0, 0, *pads]
    name = graph.add("Pad", x.name, graph.integers(widths), graph.number(op.fill))
    return x._replace(name=name, shape=Shape(x.shape.neurons, taken.shape))


def _gathered(op: Rearrange, graph: Graph, x: Value, target: Shape) -> Value:
    """Any positions of a map with one axis."""
    size, index, axis = x.shape.values, op.index, 1 if x.neurons_last else 2
    if index.size == 1 and index[0] >= 0 and not target.positions:
        place = graph.known(np.array(index[0]))  # of no axes, so that there is one less
        return Value(graph.add("Gather", x.name, place, axis=axis), target)
    name = x.name
    if index.min() < 0:
        widths = [0, 0, 0, 0, 1, 0] if x.neurons_last else [0, 0, 0, 0, 0, 1]
        name = graph.add("Pad", name, graph.integers(widths), graph.number(op.fill))
    places = graph.constant("index", np.where(index < 0, size, index))
    name = graph.add("Gather", name, places, axis=axis)
    return x._replace(name=name, shape=Shape(x.shape.neurons, (index.size,)))
