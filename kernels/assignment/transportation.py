"""The transportation problem of many rows and few workers: exact, in memory O(m P).

Shortest augmenting paths (as in Jonker and Volgenant, Computing 38, 1987), on the P workers instead
of the m seats.  Rows enter one at a time.  Handing some row of worker q on to worker t costs at
least ``least[q, t]``, so the cheapest way to seat a new row is a shortest path from the row over full
workers to one with a free seat, each worker on it handing its cheapest row on to the next.  A
price per worker keeps the lengths of all edges at or above zero, as Dijkstra needs; only full
workers have one, which is what makes the result optimal.

``least[q, t]`` is the key at the top of a pairing heap (Fredman et al., Algorithmica 1, 1986) of
the rows of q.  A row sits in the P heaps of its worker and in no other, once in each: the nodes of
all P² heaps fit into one array of (m, P), whatever the capacities.

Rounding cannot make it run forever: every row enters once, by a path in Dijkstra's tree.
"""

from __future__ import annotations

import numpy as np

from ..arguments import DOUBLE, INTEGERS, Array
from ..jit import jit
from ..registry import Need, kernel

_NONE = -1
# A row in the pairing heap of one worker t; its parent is the "previous" of its first child.
_NODE = np.dtype([("key", "f8"), ("child", "i4"), ("next", "i4"), ("previous", "i4")], align=True)


@jit
def _meld(heap: np.ndarray, a: int, b: int) -> int:
    """The root of two heaps, with roots a and b, made one."""
    child, following, previous = heap["child"], heap["next"], heap["previous"]
    if heap["key"][b] < heap["key"][a]:
        a, b = b, a
    if child[a] != _NONE:
        previous[child[a]] = b
    following[b] = child[a]
    previous[b] = a
    child[a] = b
    return a


@jit
def _meld_children(heap: np.ndarray, row: int) -> int:
    """The root of the heaps below ``row``, made one: in pairs, then one after the other."""
    following = heap["next"]
    child, pairs = heap["child"][row], _NONE
    while child != _NONE:
        pair, partner = child, following[child]
        child = _NONE
        if partner != _NONE:
            child = following[partner]
            pair = _meld(heap, pair, partner)
        following[pair] = pairs
        pairs = pair
    root = _NONE
    while pairs != _NONE:
        pair, pairs = pairs, following[pairs]
        root = pair if root == _NONE else _meld(heap, pair, root)
    return root


@jit
def _cut(heap: np.ndarray, row: int) -> None:
    """Take ``row``, not a root, with all below it out of its heap."""
    child, following, previous = heap["child"], heap["next"], heap["previous"]
    after, before = following[row], previous[row]
    if child[before] == row:
        child[before] = after
    else:
        following[before] = after
    if after != _NONE:
        previous[after] = before


@jit
def _leave(nodes: np.ndarray, first: np.ndarray, least: np.ndarray, row: int) -> None:
    """Take ``row`` out of the heaps of its worker, with tops ``first`` and their keys ``least``."""
    for t in range(len(first)):
        heap, root = nodes[:, t], first[t]
        rest = _meld_children(heap, row)
        if row == root:
            root = rest
        else:
            _cut(heap, row)
            if rest != _NONE:
                root = _meld(heap, root, rest)
        first[t] = root
        least[t] = np.inf if root == _NONE else heap["key"][root]


@jit
def _join(nodes: np.ndarray, first: np.ndarray, least: np.ndarray, row: int, keys: np.ndarray) -> None:
    """Put ``row`` into the heaps of a worker; handing it on to t costs ``keys[t]``."""
    for t in range(len(first)):
        heap, root = nodes[:, t], first[t]
        heap["key"][row] = keys[t]
        heap["child"][row] = heap["next"][row] = heap["previous"][row] = _NONE
        first[t] = row if root == _NONE else _meld(heap, root, row)
        least[t] = min(least[t], keys[t])


@jit
def _nearest(distance: np.ndarray, settled: np.ndarray, free: np.ndarray) -> int:
    """The nearest worker not yet settled; of equally near ones, one with a free seat."""
    best = _NONE
    for q in range(len(free)):
        if settled[q]:
            continue
        nearer = best == _NONE or distance[q] < distance[best]
        if nearer or (distance[q] == distance[best] and free[best] == 0 and free[q] > 0):
            best = q
    return best


@jit
def _path(
    costs: np.ndarray, least: np.ndarray, prices: np.ndarray, free: np.ndarray
) -> tuple[int, np.ndarray]:
    """A cheapest path for a row with ``costs`` to a worker with a free seat; raises the prices to match.

    Returns:
        the worker with the free seat, and before[q], the worker that hands a row on to q, or ``_NONE``.
    """
    distance = costs - costs.min() + prices
    before, settled = np.full(len(free), _NONE), np.zeros(len(free), np.bool_)
    end = _nearest(distance, settled, free)
    while free[end] == 0:
        settled[end] = True
        for t in range(len(free)):
            # Below zero by rounding only.
            through = distance[end] + max(least[end, t] + prices[t] - prices[end], 0.0)
            if not settled[t] and through < distance[t]:
                distance[t] = through
                before[t] = end
        end = _nearest(distance, settled, free)
    for q in range(len(free)):
        if settled[q]:
            prices[q] += distance[end] - distance[q]
    return end, before


@kernel(arguments={"costs": Array(DOUBLE, 2), "capacities": Array(INTEGERS, 1)}, need=Need.NONE)
def least_cost_owners(costs: np.ndarray, capacities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give every row to one worker, at least total cost, worker q at most ``capacities[q]`` rows.

    Args:
        costs: (m, P) float64, finite.
        capacities: (P,) int64, zero or more, summing to m or more.  Not checked.

    Returns:
        owner of each row, (m,) int32, and prices (P,) float64, zero or more.  They prove the optimum: up to
        rounding, each row is where costs[row] + prices is least, and where a seat is free the price is zero.
    """
    m, P = costs.shape
    nodes = np.empty((m, P), _NODE)
    first, least = np.full((P, P), _NONE, np.int32), np.full((P, P), np.inf)
    owner, prices, free = np.empty(m, np.int32), np.zeros(P), capacities.copy()
    for row in range(m):
        end, before = _path(costs[row], least, prices, free)
        free[end] -= 1
        while end != _NONE:
            giver, incoming = before[end], row
            if giver != _NONE:
                incoming = first[giver, end]
                _leave(nodes, first[giver], least[giver], incoming)
            _join(nodes, first[end], least[end], incoming, costs[incoming] - costs[incoming, end])
            owner[incoming] = end
            end = giver
    return owner, prices
