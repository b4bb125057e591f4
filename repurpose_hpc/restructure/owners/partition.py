"""Partitions of a hypergraph: a start, layer after layer, then refinement of all layers together.

*Start.*  The layers before are given.  The vertex that is joined most to a worker goes there, one after the
other (``grow_owners``), or Mt-KaHyPar divides the layer, the workers of all others being fixed.

*Refinement.*  Passes over all layers, the others as they are at the time: single vertices and pairs move
where that lowers the volume (``exchange_owners``); then what some workers have of the layer is taken from
them and given to them anew.  Rows that read the same move together in that way, which no pair could do.
The volume never rises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
from scipy.sparse import csr_array

from repurpose_hpc.kernels import exchange_owners, grow_owners, set_owners
from repurpose_hpc.kernels.assignment.hypergraph import NOBODY, Hypergraph, Partition
from repurpose_hpc.restructure.owners.nets import Nets

# Passes over all layers, at most; and the part of the volume that one must save, or it was the last.
PASSES = 20
LEAST = 0.002


@dataclass(frozen=True, eq=False)
class Layer:
    """The neurons of a free space, which are given to workers together.

    Attributes:
        members: their vertices, (n,).
        capacity: the most that each worker may own, (P,), summing to n or more.
    """

    members: np.ndarray
    capacity: np.ndarray


@dataclass(frozen=True, eq=False)
class Loads:
    """A kind of load beside seats, such as the edges of a mixing.

    Attributes:
        vertices: those that have any, (k,), each once.
        sizes: of their loads, (k,), above 0.
        limits: of every worker, (P,).
    """

    vertices: np.ndarray
    sizes: np.ndarray
    limits: np.ndarray


# Owners of the members of a layer, (n,), from nets, nets by vertex (V, nets), owners of the other vertices
# (``NOBODY``: open), and the layer.
LayerStart = Callable[[Nets, csr_array, np.ndarray, Layer], np.ndarray]


class Partitioner:
    """Owners of the vertices of a hypergraph, which it improves.

    Args:
        nets: the hypergraph.
        fixed: owners of vertices that have theirs; a number below 0 for the others, (V,).
        layers: the vertices to be given away, in the order in which networks compute them.
        loads: beside seats.
        workers: P.
        seed: of random orders.

    Attributes:
        cost: of the present owners, once all layers have theirs.
    """

    def __init__(
        self,
        nets: Nets,
        fixed: np.ndarray,
        layers: Sequence[Layer],
        loads: Sequence[Loads],
        workers: int,
        seed: int,
    ) -> None:
        self.nets, self.layers, self.workers = nets, layers, workers
        self.rng = np.random.default_rng(seed)
        self.by_vertex = csr_array(nets.pins.T)
        seats = [Loads(layer.members, np.ones(layer.members.size), layer.capacity) for layer in layers]
        self._graph = _graph(nets, self.by_vertex, [*seats, *loads])
        limits = [one.limits for one in (*seats, *loads)]
        self._limits = np.array([limit.sum() for limit in limits])
        self._state = Partition(
            np.full(fixed.size, NOBODY),
            np.zeros((nets.weights.size, workers), np.uint32),
            np.array(limits, float).reshape(len(limits), workers),
        )
        self._numbers = np.full(fixed.size, NOBODY)
        self.cost = -float(nets.weights.sum())
        self._set(np.flatnonzero(fixed >= 0), fixed[fixed >= 0])

    @property
    def owner(self) -> np.ndarray:
        """The owner of every vertex, ``NOBODY`` where it has none, (V,)."""
        return self._state.owner

    def start(self, layer_start: LayerStart | None = None) -> None:
        """Give away all layers, one after the other.

        Args:
            layer_start: says how; None: greedily, as also where what it says exceeds a limit.
        """
        for layer in self.layers:
            room = np.minimum(self._state.room, 0)
            if layer_start is not None:
                self._set(layer.members, layer_start(self.nets, self.by_vertex, self.owner, layer))
                if (self._state.room >= room).all():
                    continue
                self._clear(layer.members)
            self._grow(self.rng.permutation(layer.members), np.ones(self.workers, np.int64))
            if (self._state.room < room).any():
                self._clear(layer.members)
                self._set(layer.members, self._dealt(layer))

    def _dealt(self, layer: Layer) -> np.ndarray:
        """Owners of a layer, (n,), that share out loads evenly: the heaviest first, one a turn."""
        graph, owners = self._graph, np.empty(layer.members.size, np.int64)
        weights = graph.loads / self._limits[graph.rows]
        totals = np.append(0, np.cumsum(weights))[graph.load_starts]
        sizes = np.diff(totals)[layer.members]
        # Seats taken of those that there are, and loads, by worker.
        turns = [(0.0, 0.0, int(q)) for q in np.flatnonzero(layer.capacity)]
        for number in np.argsort(-sizes, kind="stable"):
            taken, load, q = heappop(turns)
            owners[number] = q
            seat = 1 / layer.capacity[q]
            if taken + 1.5 * seat < 1:
                heappush(turns, (round(taken + seat, 9), load + sizes[number], q))
        return owners

    def take(self, owner: np.ndarray) -> None:
        """Take over the owners of all layers, (V,), whatever there is room for."""
        for layer in self.layers:
            self._set(layer.members, owner[layer.members])

    def refine(self) -> None:
        """Lower the cost as long as a pass over all layers lowers it much."""
        # Whoever has too much may keep it.
        np.maximum(self._state.room, 0, out=self._state.room)
        for number in range(PASSES):
            before = self.cost
            for layer in self.layers[:: 1 if number % 2 else -1]:
                self.cost -= exchange_owners(self._graph, self._state, layer.members)
                for count in _sizes(int(np.count_nonzero(layer.capacity))):
                    self._grow_again(layer, count)
            if before - self.cost <= LEAST * before:
                break

    def _grow_again(self, layer: Layer, count: int) -> None:
        """Give what ``count`` workers have of a layer to them anew, unless that costs more."""
        allowed = np.zeros(self.workers, np.int64)
        allowed[self.rng.choice(np.flatnonzero(layer.capacity), count, replace=False)] = 1
        members = self.rng.permutation(layer.members[allowed[self.owner[layer.members]] > 0])
        owners, cost = self.owner[members], self.cost
        self._clear(members)
        self._grow(members, allowed)
        if self.cost > cost or (self._state.room < 0).any():
            self._set(members, owners)

    def _set(self, members: np.ndarray, owners: np.ndarray) -> None:
        self.cost += set_owners(self._graph, self._state, members, owners.astype(np.int64))

    def _clear(self, members: np.ndarray) -> None:
        self._set(members, np.full(members.size, NOBODY))

    def _grow(self, members: np.ndarray, allowed: np.ndarray) -> None:
        self.cost += grow_owners(self._graph, self._state, members, allowed, self._numbers)


def best_owners(starts: Sequence[LayerStart | None], make: Callable[[], Partitioner]) -> np.ndarray:
    """The owners of least cost that refinement finds from some starts, (V,); of equal ones the first.

    Args:
        starts: see ``Partitioner.start``.
        make: a new partitioner.
    """
    least, best = np.inf, np.empty(0, np.int64)
    for layer_start in starts:
        partitioner = make()
        partitioner.start(layer_start)
        partitioner.refine()
        if partitioner.cost < least:
            least, best = partitioner.cost, partitioner.owner
        del partitioner  # before the next one takes as much memory
    return best


def _sizes(workers: int) -> list[int]:
    """Numbers of workers that give to each other: powers of two, and all."""
    powers = [2**k for k in range(1, workers.bit_length()) if 2**k < workers]
    return [*powers, workers] if workers > 1 else []


def _graph(nets: Nets, by_vertex: csr_array, loads: Sequence[Loads]) -> Hypergraph:
    vertex = np.concatenate([np.zeros(0, np.int64), *(one.vertices for one in loads)])
    row = np.repeat(np.arange(len(loads)), [one.vertices.size for one in loads])
    size = np.concatenate([np.zeros(0), *(one.sizes for one in loads)])
    order = np.argsort(vertex, kind="stable")  # seats stay first
    starts = np.cumsum(np.bincount(vertex, minlength=by_vertex.shape[0]))
    return Hypergraph(
        nets.pins.indptr.astype(np.int64),
        nets.pins.indices.astype(np.uint32),
        by_vertex.indptr.astype(np.int64),
        by_vertex.indices.astype(np.uint32),
        nets.weights.astype(float),
        np.append(0, starts).astype(np.int64),
        row[order].astype(np.uint32),
        size[order].astype(float),
    )
