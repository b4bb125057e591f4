"""Greedy growth of a partition: the vertex that is joined most to a worker goes there, one by one."""

from __future__ import annotations

import numpy as np

from ..jit import jit
from ..registry import Need, kernel
from .hypergraph import HYPERGRAPH, MEMBERS, NOBODY, PARTITION, Hypergraph, Partition, fits, put


@jit
def _rise(keys: np.ndarray, heap: np.ndarray, place: np.ndarray, at: int) -> None:
    """Move the slot at position ``at`` of a heap with the largest key on top up to where it belongs."""
    slot = heap[at]
    while at > 0:
        above = (at - 1) // 2
        if keys[heap[above]] >= keys[slot]:
            break
        heap[at] = heap[above]
        place[heap[at]] = at
        at = above
    heap[at] = slot
    place[slot] = at


@jit
def _pop(keys: np.ndarray, heap: np.ndarray, place: np.ndarray, size: int) -> int:
    """Take the top off a heap of ``size`` slots."""
    top, last = heap[0], heap[size - 1]
    place[top] = NOBODY
    size -= 1
    if size == 0:
        return top
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and keys[heap[child + 1]] > keys[heap[child]]:
            child += 1
        if keys[heap[child]] <= keys[last]:
            break
        heap[at] = heap[child]
        place[heap[at]] = at
        at = child
    heap[at] = last
    place[last] = at
    return top


@jit
def _roomiest(graph: Hypergraph, state: Partition, vertex: int, allowed: np.ndarray) -> int:
    """The worker with a seat for a vertex that fits nowhere, where the most is left of what lacks most."""
    best, most = NOBODY, -np.inf
    for q in range(allowed.size):
        least = np.inf
        for k in range(graph.load_starts[vertex] + 1, graph.load_starts[vertex + 1]):
            least = min(least, state.room[graph.rows[k], q] - graph.loads[k])
        seat = graph.load_starts[vertex]
        if allowed[q] and state.room[graph.rows[seat], q] >= graph.loads[seat] and least > most:
            best, most = q, least
    return best


@jit
def _seats(
    graph: Hypergraph, state: Partition, members: np.ndarray, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Every pair of a vertex in nets and a worker with room for it, slot = number P + worker, as a heap.

    Returns:
        keys: minus the weight of the nets of the vertex that do not reach the worker, (k P,).
        heap: slots, (k P,); place: of every slot in the heap, (k P,); the number of slots in the heap.
    """
    P, size = allowed.size, 0
    keys = np.zeros(members.size * P)
    heap, place = np.empty(keys.size, np.int64), np.full(keys.size, NOBODY, np.int64)
    for k in range(members.size):
        vertex = members[k]
        if graph.vertex_starts[vertex] == graph.vertex_starts[vertex + 1]:
            continue  # in no net: it takes what is left in the end
        for q in range(P):
            if not allowed[q] or not fits(graph, state, vertex, q):
                continue
            slot = k * P + q
            for j in range(graph.vertex_starts[vertex], graph.vertex_starts[vertex + 1]):
                if state.counts[graph.nets[j], q] == 0:
                    keys[slot] -= graph.weights[graph.nets[j]]
            heap[size] = slot
            _rise(keys, heap, place, size)
            size += 1
    return keys, heap, place, size


@jit
def _attract(
    graph: Hypergraph,
    state: Partition,
    vertex: int,
    worker: int,
    number: np.ndarray,
    keys: np.ndarray,
    heap: np.ndarray,
    place: np.ndarray,
) -> None:
    """Raise the keys of all that shares nets with a vertex which a worker is about to own."""
    P = state.room.shape[1]
    for j in range(graph.vertex_starts[vertex], graph.vertex_starts[vertex + 1]):
        net = graph.nets[j]
        if state.counts[net, worker] > 0:
            continue
        for i in range(graph.net_starts[net], graph.net_starts[net + 1]):
            slot = number[graph.pins[i]] * P + worker
            if slot >= 0 and place[slot] != NOBODY:
                keys[slot] += graph.weights[net]
                _rise(keys, heap, place, place[slot])


@kernel(
    arguments={
        "graph": HYPERGRAPH,
        "state": PARTITION,
        "members": MEMBERS,
        "allowed": MEMBERS,
        "number": MEMBERS,
    },
    need=Need.NONE,
)
def grow_owners(
    graph: Hypergraph, state: Partition, members: np.ndarray, allowed: np.ndarray, number: np.ndarray
) -> float:
    """Give vertices without owners to workers, one by one: that which is joined most to a worker goes there.

    A vertex is joined to a worker by minus the weight of those of its nets that do not reach the worker.
    The seat, the first of the loads of every vertex, is never exceeded; the others only by vertices that
    would fit nowhere.

    Args:
        graph: the hypergraph.
        state: is changed.
        members: the vertices, (k,); the first ones first where there is nothing to choose.
        allowed: 1 for the workers who may own them, (P,); these have seats for all.
        number: (V,), of ``NOBODY``; is used, and is so again in the end.

    Returns:
        what the cost rises by; see ``set_owners``.
    """
    P, change = allowed.size, 0.0
    number[members] = np.arange(members.size)
    keys, heap, place, size = _seats(graph, state, members, allowed)
    while size > 0:
        slot = _pop(keys, heap, place, size)
        size -= 1
        vertex, q = members[slot // P], slot % P
        if state.owner[vertex] == NOBODY and fits(graph, state, vertex, q):
            _attract(graph, state, vertex, q, number, keys, heap, place)
            change += put(graph, state, vertex, q)
    number[members] = NOBODY
    for vertex in members:
        if state.owner[vertex] == NOBODY:
            change += put(graph, state, vertex, _roomiest(graph, state, vertex, allowed))
    return change
