"""Attention and what depends on the position in a sequence, as nodes, for sequences of one length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from repurpose_hpc.exporters.graph import REAL, Graph, Value
from repurpose_hpc.exporters.registry import exports
from repurpose_hpc.model.operations import Attention, PositionTable, Rotary, Shape


@exports(PositionTable)
def _position_table(op: PositionTable, graph: Graph, sources: Sequence[Value], target: Shape) -> Value:
    (x,) = sources
    table = graph.by_neuron("table", op.table[:, : x.shape.values], x)
    return x._replace(name=graph.add("Add", x.name, table))


@exports(Rotary)
def _rotary(op: Rotary, graph: Graph, sources: Sequence[Value], target: Shape) -> Value:
    """x cos + y sin, y with the neurons of every pair exchanged."""
    (x,) = sources
    cos, sin, partner = _turns(op, x.shape)
    exchanged = graph.picked(x, partner)
    parts = (
        graph.add("Mul", each.name, graph.by_neuron(name, factor, x))
        for each, name, factor in ((x, "cos", cos), (exchanged, "sin", sin))
    )
    return x._replace(name=graph.add("Add", *parts))


def _turns(op: Rotary, shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Factors of every neuron and of its partner, (n, positions) each, and the partners, (n,)."""
    size = shape.neurons // op.heads
    angles = op.angles(shape.values)
    cos, sin, partner = np.ones((size, shape.values)), np.zeros((size, shape.values)), np.arange(size)
    first, second = op.members()
    cos[first] = cos[second] = op.factor * np.cos(angles)
    sin[second] = op.factor * np.sin(angles)
    sin[first] = -sin[second]
    partner[first], partner[second] = second, first
    starts = np.arange(op.heads)[:, None] * size
    return np.tile(cos, (op.heads, 1)), np.tile(sin, (op.heads, 1)), (starts + partner).ravel()


@exports(Attention)
def _attention(op: Attention, graph: Graph, sources: Sequence[Value], target: Shape) -> Value:
    queries, keys, values, *masks = sources
    shape = queries.shape.values, keys.shape.values
    Q = _by_head(graph, queries, op.heads)
    K = _shared(op, graph, _by_head(graph, keys, op.groups, positions_last=True))
    V = _shared(op, graph, _by_head(graph, values, op.groups))
    scores = graph.add("Mul", graph.add("MatMul", Q, K), graph.number(op.scale))
    if op.softcap:
        capped = graph.add("Tanh", graph.add("Div", scores, graph.number(op.softcap)))
        scores = graph.add("Mul", capped, graph.number(op.softcap))
    constants = op.additive(shape, REAL, np.arange(op.heads))
    if constants.any():
        alike = (constants == constants[:1]).all()
        scores = graph.add("Add", scores, graph.real("mask", constants[:1] if alike else constants))
    for mask in masks:
        rows = mask.shape.values // shape[1]
        mask_sizes = op.heads, rows, shape[1]
        scores = graph.add("Add", scores, graph.reshaped(graph.laid(mask, False).name, mask_sizes))
    shares = graph.add("Softmax", scores, axis=-1)
    if masks or np.isneginf(constants).all(axis=2).any():
        # A position that sees nothing gets zeros.
        shares = graph.add("Where", graph.add("IsNaN", shares), graph.number(0), shares)
    return _joined(graph, graph.add("MatMul", shares, V), target, queries)


def _by_head(graph: Graph, value: Value, heads: int, positions_last: bool = False) -> str:
    """A tensor as (samples, heads, positions, neurons of a head), or with these two exchanged."""
    positions, size = value.shape.values, value.shape.neurons // heads
    if value.neurons_last:
        split, perm = (positions, heads, size), [0, 2, 3, 1] if positions_last else [0, 2, 1, 3]
    else:
        split, perm = (heads, size, positions), [0, 1, 2, 3] if positions_last else [0, 1, 3, 2]
    name = graph.reshaped(value.name, split)
    return name if perm == sorted(perm) else graph.add("Transpose", name, perm=perm)


def _shared(op: Attention, graph: Graph, name: str) -> str:
    """Heads of keys or values, each as often as there are query heads that read it."""
    if op.heads == op.groups:
        return name
    groups = np.arange(op.heads) // (op.heads // op.groups)
    return graph.add("Gather", name, graph.known(groups), axis=1)


def _joined(graph: Graph, heads: str, target: Shape, queries: Value) -> Value:
    """(samples, heads, positions, neurons of a head) as a tensor that lies as the queries do."""
    shape = Shape(target.neurons, (queries.shape.values,))
    value = Value(heads, shape, queries.neurons_last)
    perm = [0, 2, 1, 3] if queries.neurons_last else [0, 1, 3, 2]
    return value._replace(name=graph.reshaped(graph.add("Transpose", heads, perm=perm), value.sizes))
