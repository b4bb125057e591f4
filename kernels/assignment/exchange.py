"""Exchanges that refine a partition: vertices of a layer move, alone or in pairs, where that costs less."""

from __future__ import annotations

import numpy as np

from ..jit import jit
from ..registry import Need, kernel
from .hypergraph import HYPERGRAPH, MEMBERS, PARTITION, Hypergraph, Partition, fits, put, take

# Partners that are tried in vain before a vertex stays where it is.
_TRIES = 8


@jit
def _gains(graph: Hypergraph, state: Partition, vertex: int, gains: np.ndarray) -> None:
    """What the cost falls by if each worker owned ``vertex``, which somebody owns: into ``gains``, (P,)."""
    own = state.owner[vertex]
    gains[:] = 0.0
    left = 0.0
    for k in range(graph.vertex_starts[vertex], graph.vertex_starts[vertex + 1]):
        net = graph.nets[k]
        weight = graph.weights[net]
        if state.counts[net, own] == 1:
            left += weight
        for q in range(gains.size):
            if state.counts[net, q] == 0:
                gains[q] -= weight
    gains += left
    gains[own] = 0.0


@jit
def _swap_with_one(
    graph: Hypergraph, state: Partition, gains: np.ndarray, back: np.ndarray, vertex: int, gain: float, p: int
) -> float:
    """Exchange a vertex of p with one of those in ``back``, all of one worker, if that lowers the cost.

    Args:
        graph, state, gains, back: see ``_swapped``.
        vertex: of p.
        gain: what moving it seemed to gain.
        p: the worker.

    Returns:
        what the cost falls by; 0: nothing has changed.
    """
    q = state.owner[back[0, 1]]
    moved = take(graph, state, vertex)
    moved -= put(graph, state, vertex, q)
    tries = 0
    for b in range(len(back)):
        partner = back[b, 1]
        if tries == _TRIES or gain + gains[back[b, 0], p] <= 0:
            break
        if state.owner[partner] != q or partner == vertex:
            continue
        tries += 1
        change = moved + take(graph, state, partner)
        change -= put(graph, state, partner, p)
        if change > 0 and _has_room(graph, state, vertex, q) and _has_room(graph, state, partner, p):
            return change
        take(graph, state, partner)
        put(graph, state, partner, q)
    take(graph, state, vertex)
    put(graph, state, vertex, p)
    return 0.0


@jit
def _swapped(
    graph: Hypergraph,
    state: Partition,
    gains: np.ndarray,
    there: np.ndarray,
    back: np.ndarray,
    p: int,
    q: int,
) -> float:
    """Exchange vertices of p, in ``there``, with some of q, in ``back``; returns what the cost falls by.

    Args:
        graph, state: see ``exchange_owners``.
        gains: of moves, as they were when vertices were put in order, (k, P) by number.
        there, back: numbers and vertices, the largest gains first, (k', 2).
        p, q: the workers.
    """
    fallen, first = 0.0, 0
    for a in range(len(there)):
        vertex, gain = there[a, 1], gains[there[a, 0], q]
        while first < len(back) and state.owner[back[first, 1]] != q:
            first += 1
        if first == len(back) or gain + gains[back[first, 0], p] <= 0:
            break
        if state.owner[vertex] == p:
            fallen += _swap_with_one(graph, state, gains, back[first:], vertex, gain, p)
    return fallen


@jit
def _has_room(graph: Hypergraph, state: Partition, vertex: int, worker: int) -> bool:
    """Whether a worker has room for all that it owns, of the loads that ``vertex`` has."""
    for k in range(graph.load_starts[vertex], graph.load_starts[vertex + 1]):
        if state.room[graph.rows[k], worker] < 0:
            return False
    return True


@jit
def _moved(graph: Hypergraph, state: Partition, vertex: int, gains: np.ndarray) -> float:
    """Move a vertex to where it gains the most, as long as it gains; returns what the cost falls by.

    ``gains``, (P,), are those of the moves that are left.
    """
    fallen = 0.0
    while True:
        _gains(graph, state, vertex, gains)
        best = state.owner[vertex]
        for q in range(gains.size):
            if gains[q] > gains[best] and fits(graph, state, vertex, q):
                best = q
        if gains[best] <= 0:
            return fallen
        fallen += gains[best]
        take(graph, state, vertex)
        put(graph, state, vertex, best)


@kernel(arguments={"graph": HYPERGRAPH, "state": PARTITION, "members": MEMBERS}, need=Need.NONE)
def exchange_owners(graph: Hypergraph, state: Partition, members: np.ndarray) -> float:
    """Move vertices, and exchange pairs of them, where that lowers the cost; once for all pairs of workers.

    Args:
        graph: the hypergraph.
        state: is changed; all ``members`` have owners.
        members: vertices of one layer, (k,).

    Returns:
        what the cost falls by, 0 or more.
    """
    P = state.room.shape[1]
    fallen, gains = 0.0, np.empty((members.size, P))
    for k in range(members.size):
        fallen += _moved(graph, state, members[k], gains[k])
    ordered = _in_order(state, members, gains)
    for p in range(P):
        for q in range(p):
            fallen += _swapped(graph, state, gains, ordered[p][q], ordered[q][p], p, q)
    return fallen


@jit
def _in_order(state: Partition, members: np.ndarray, gains: np.ndarray) -> list:
    """The members of every worker p in the order of what moving them to q gains: [p][q], (k, 2) each."""
    P = state.room.shape[1]
    owners = state.owner[members]
    ordered = []
    for p in range(P):
        own = np.flatnonzero(owners == p)
        of_worker = []
        for q in range(P):
            order = own[np.argsort(-gains[own, q], kind="mergesort")]
            pairs = np.empty((order.size, 2), np.int64)
            pairs[:, 0] = order
            pairs[:, 1] = members[order]
            of_worker.append(pairs)
        ordered.append(of_worker)
    return ordered
