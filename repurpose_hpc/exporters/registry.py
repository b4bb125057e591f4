"""The registry of the functions that write operations as nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from repurpose_hpc.exporters.graph import Graph, Value
from repurpose_hpc.model.operations import Operation, Shape

# From an operation, the graph, the sources and the shape of the target: the target.
Export = Callable[[Any, Graph, Sequence[Value], Shape], Value]

# By type of operation.
EXPORTS: dict[type[Operation], Export] = {}


def exports(kind: type[Operation]) -> Callable[[Export], Export]:
    """Enter a function into ``EXPORTS``; ``kind``: of operation."""

    def enter(export: Export) -> Export:
        EXPORTS[kind] = export
        return export

    return enter


def add_operation(graph: Graph, op: Operation, sources: Sequence[Value], target: Shape) -> Value:
    """Write an operation as nodes, the last of which makes a tensor of its name.

    Args:
        graph: gets the nodes.
        op: of any kind.
        sources: in its order.
        target: shape of what it makes.
    """
    before = len(graph.steps)
    with graph.within(op.name):
        value = graph.shaped(EXPORTS[type(op)](op, graph, sources, target), target.positions)
    if len(graph.steps) == before:  # nothing to do
        return value
    return value._replace(name=graph.rename(value.name, graph.names.new(op.name)))
