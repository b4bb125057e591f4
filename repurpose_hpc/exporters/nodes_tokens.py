"""Attention and what depends on the position in a sequence, as nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from repurpose_hpc.exporters.graph import REAL, Graph, Value
from repurpose_hpc.exporters.registry import exports
from repurpose_hpc.model.network import FREE
from repurpose_hpc.model.operations import UNLIMITED, Attention, PositionTable, Retention, Rotary, Shape


@exports(PositionTable)
def _position_table(op: PositionTable, graph: Graph, sources: Sequence[Value], target: Shape) -> Value:
    (x,) = sources
    if x.shape.values == FREE:
        table = first_rows(graph, graph.real("table", op.table[:, : graph.longest].T))
    else:
        table = graph.by_neuron("table", op.table[:, : x.shape.values], x)
    return x._replace(name=graph.add("Add", x.name, table))


@exports(Rotary)
def _rotary(op: Rotary, graph: Graph, sources: Sequence[Value], target: Shape) -> Value:
    """x cos + y sin, y with the neurons of every pair exchanged."""
    (x,) = sources
    if x.shape.values == FREE:
        return _turned_by_head(op, graph, x)
    cos, sin, partner = _turns(op, x.shape.neurons // op.heads, x.shape.values)
    starts = np.arange(op.heads)[:, None] * len(partner)
    exchanged = graph.picked(x, (starts + partner).ravel())
    factors = [
        graph.by_neuron(name, np.tile(factor, (op.heads, 1)), x)
        for name, factor in (("cos", cos), ("sin", sin))
    ]
    return x._replace(name=_turned(graph, x.name, exchanged.name, *factors))


def _turned_by_head(op: Rotary, graph: Graph, x: Value) -> Value:
    """The same, with factors that are those of every head: (tokens, 1, neurons of a head)."""
    size = x.shape.neurons // op.heads
    cos, sin, partner = _turns(op, size, graph.longest)
    heads = graph.reshaped(x.name, (FREE, op.heads, size))
    exchanged = graph.add("Gather", heads, graph.known(partner), axis=-1)
    tables = (graph.known(factor.T[:, None].astype(REAL)) for factor in (cos, sin))
    turned = _turned(graph, heads, exchanged, *(first_rows(graph, table) for table in tables))
    return x._replace(name=graph.reshaped(turned, x.sizes))


def _turned(graph: Graph, x: str, exchanged: str, cos: str, sin: str) -> str:
    return graph.add("Add", graph.add("Mul", x, cos), graph.add("Mul", exchanged, sin))


def _turns(op: Rotary, size: int, positions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Factors of the neurons of a head and of their partners, (size, positions), and these, (size,)."""
    angles = op.angles(positions)
    cos, sin, partner = np.ones((size, positions)), np.zeros((size, positions)), np.arange(size)
    first, second = op.members()
    cos[first] = cos[second] = op.factor * np.cos(angles)
    sin[second] = op.factor * np.sin(angles)
    sin[first] = -sin[second]
    partner[first], partner[second] = second, first
    return cos, sin, partner


def first_rows(graph: Graph, table: str) -> str:
    """The rows of a table for the tokens of a sequence of any length."""
    return graph.add("Slice", table, graph.integers([0]), _tokens(graph), graph.integers([0]))


def _tokens(graph: Graph) -> str:
    """Tokens of the sequences, (1,) int64."""
    return graph.once("tokens", lambda: graph.add("Shape", graph.inputs[0].name, start=1, end=2))


def _distances(graph: Graph) -> str:
    """How far keys are behind queries in sequences of any length, (tokens, tokens) int64."""

    def make() -> str:
        zero, one = (graph.known(np.array(number)) for number in (0, 1))
        places = graph.add("Range", zero, graph.add("Squeeze", _tokens(graph)), one)
        ends = (graph.add("Unsqueeze", places, graph.integers([axis])) for axis in (0, 1))
        return graph.add("Sub", *ends)

    return graph.once("distances", make)


def _band(op: Attention, graph: Graph) -> str:
    """What is added to scores of sequences of any length, (tokens, tokens): -inf where nothing is seen."""

    def mask() -> str:
        distance, near = _distances(graph), []
        if op.after != UNLIMITED:
            near.append(graph.add("LessOrEqual", distance, graph.known(np.array(op.after))))
        if op.before != UNLIMITED:
            near.append(graph.add("GreaterOrEqual", distance, graph.known(np.array(-op.before))))
        seen = near[0] if len(near) == 1 else graph.add("And", *near)
        return graph.add("Where", seen, graph.number(0), graph.number(-np.inf))

    return graph.once(f"mask {op.before} {op.after}", mask)


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
    scores, hides_all = _with_constants(op, graph, scores, shape)
    for mask in masks:
        rows = mask.shape.values // shape[1]
        mask_sizes = op.heads, rows, shape[1]
        scores = graph.add("Add", scores, graph.reshaped(graph.laid(mask, False).name, mask_sizes))
    shares = graph.add("Softmax", scores, axis=-1)
    if masks or hides_all:
        # A position that sees nothing gets zeros.
        shares = graph.add("Where", graph.add("IsNaN", shares), graph.number(0), shares)
    return _joined(graph, graph.add("MatMul", shares, V), target, queries)


def _with_constants(op: Attention, graph: Graph, scores: str, shape: tuple[int, int]) -> tuple[str, bool]:
    """Scores and what is added to them for every sample, and whether a position sees nothing then."""
    if FREE in shape:
        is_banded = max(op.before, op.after) != UNLIMITED
        return graph.add("Add", scores, _band(op, graph)) if is_banded else scores, False
    constants = op.additive(shape, REAL, np.arange(op.heads))
    if constants.any():
        alike = (constants == constants[:1]).all()
        scores = graph.add("Add", scores, graph.real("mask", constants[:1] if alike else constants))
    return scores, bool(np.isneginf(constants).all(axis=2).any())


@exports(Retention)
def _retention(op: Retention, graph: Graph, sources: Sequence[Value], target: Shape) -> Value:
    queries, keys, values = sources
    Q, V = (_by_head(graph, value, op.heads) for value in (queries, values))
    K = _by_head(graph, keys, op.heads, positions_last=True)
    positions = queries.shape.values
    weights = _weights(op, graph) if positions == FREE else graph.real("weights", op.weights(positions, REAL))
    products = graph.add("Mul", graph.add("MatMul", Q, K), weights)
    return _joined(graph, graph.add("MatMul", products, V), target, queries)


def _weights(op: Retention, graph: Graph) -> str:
    """What products are multiplied by in sequences of any length, (heads, tokens, tokens)."""
    distance = _distances(graph)
    rates = graph.real("rates", -np.log(op.decay.astype(np.float64))[:, None, None])
    powers = graph.add("Exp", graph.add("Mul", graph.cast(distance), rates))
    is_seen = graph.add("LessOrEqual", distance, graph.known(np.array(0)))
    powers = graph.add("Where", is_seen, powers, graph.number(0))
    roots = graph.add("Sqrt", graph.add("ReduceSum", powers, graph.integers([2]), keepdims=1))
    return graph.add("Mul", graph.add("Div", powers, roots), graph.number(op.scale))


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
