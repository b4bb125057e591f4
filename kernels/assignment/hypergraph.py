"""Hypergraphs and their partitions under several capacities at once: what ``growth`` and ``exchange`` change.

A *net* joins vertices.  It costs its weight times the number of workers that own some of them, less one
(connectivity minus one).  Every vertex has *loads*, each in a row of a table of rooms: a seat among those of
its layer, edges of a mixing.  A worker may own what it has room for in every row.

``counts[net, q]`` is the number of vertices of a net that worker q owns.  All kernels keep it, ``owner`` and
``room`` together.  Sums of weights are exact if these are multiples of a power of two, so that the order of
additions does not matter.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..arguments import DOUBLE, INDEX, INTEGERS, Array, Arrays
from ..jit import jit
from ..registry import Need, kernel

NOBODY = -1


class Hypergraph(NamedTuple):
    """Vertices and nets, each with those of the other kind; compressed as rows of a sparse matrix are.

    Attributes:
        net_starts, pins: vertices of net n are ``pins[net_starts[n]:net_starts[n + 1]]``.
        vertex_starts, nets: the nets of every vertex, likewise.
        weights: of the nets, (N,).
        load_starts, rows, loads: the loads of every vertex, likewise, and the rows of the table of rooms
            that they are in.
    """

    net_starts: np.ndarray
    pins: np.ndarray
    vertex_starts: np.ndarray
    nets: np.ndarray
    weights: np.ndarray
    load_starts: np.ndarray
    rows: np.ndarray
    loads: np.ndarray


class Partition(NamedTuple):
    """The state of a partition.

    Attributes:
        owner: of every vertex, ``NOBODY`` for those that have none yet, (V,).
        counts: vertices of every net that each worker owns, (N, P).
        room: what every worker can still take of every kind of load, (R, P).
    """

    owner: np.ndarray
    counts: np.ndarray
    room: np.ndarray


HYPERGRAPH = Arrays(
    Hypergraph,
    {
        "net_starts": Array(INTEGERS, 1),
        "pins": Array(INDEX, 1),
        "vertex_starts": Array(INTEGERS, 1),
        "nets": Array(INDEX, 1),
        "weights": Array(DOUBLE, 1),
        "load_starts": Array(INTEGERS, 1),
        "rows": Array(INDEX, 1),
        "loads": Array(DOUBLE, 1),
    },
)
PARTITION = Arrays(
    Partition, {"owner": Array(INTEGERS, 1), "counts": Array(INDEX, 2), "room": Array(DOUBLE, 2)}
)
MEMBERS = Array(INTEGERS, 1)


@jit
def fits(graph: Hypergraph, state: Partition, vertex: int, worker: int) -> bool:
    """Whether a worker has room for a vertex."""
    for k in range(graph.load_starts[vertex], graph.load_starts[vertex + 1]):
        if state.room[graph.rows[k], worker] < graph.loads[k]:
            return False
    return True


@jit
def put(graph: Hypergraph, state: Partition, vertex: int, worker: int) -> float:
    """Give a vertex to a worker; returns the weight of the nets that reach it with that."""
    state.owner[vertex] = worker
    for k in range(graph.load_starts[vertex], graph.load_starts[vertex + 1]):
        state.room[graph.rows[k], worker] -= graph.loads[k]
    reached = 0.0
    for k in range(graph.vertex_starts[vertex], graph.vertex_starts[vertex + 1]):
        net = graph.nets[k]
        if state.counts[net, worker] == 0:
            reached += graph.weights[net]
        state.counts[net, worker] += 1
    return reached


@jit
def take(graph: Hypergraph, state: Partition, vertex: int) -> float:
    """Take a vertex from its owner; returns the weight of the nets that reach that worker no longer."""
    worker = state.owner[vertex]
    state.owner[vertex] = NOBODY
    for k in range(graph.load_starts[vertex], graph.load_starts[vertex + 1]):
        state.room[graph.rows[k], worker] += graph.loads[k]
    left = 0.0
    for k in range(graph.vertex_starts[vertex], graph.vertex_starts[vertex + 1]):
        net = graph.nets[k]
        state.counts[net, worker] -= 1
        if state.counts[net, worker] == 0:
            left += graph.weights[net]
    return left


@kernel(
    arguments={"graph": HYPERGRAPH, "state": PARTITION, "members": MEMBERS, "owners": MEMBERS},
    need=Need.NONE,
)
def set_owners(graph: Hypergraph, state: Partition, members: np.ndarray, owners: np.ndarray) -> float:
    """Give vertices to workers, or take them from theirs, whatever the room.

    Args:
        graph: the hypergraph.
        state: is changed.
        members: vertices, (k,).
        owners: the new ones of these, ``NOBODY`` to have none, (k,).

    Returns:
        what the cost rises by, where a net with no owned vertices counts as one worker less than none.
    """
    change = 0.0
    for k in range(members.size):
        vertex = members[k]
        if state.owner[vertex] != NOBODY:
            change -= take(graph, state, vertex)
        if owners[k] != NOBODY:
            change += put(graph, state, vertex, owners[k])
    return change
