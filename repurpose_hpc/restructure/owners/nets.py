"""The hypergraph of a network: which neurons every value that may be sent joins (column-net model).

The vertices are the neurons of the free spaces.  A tensor whose readers take ghosts has a *net* for every
neuron: the neuron, and all rows that read it.  The owner sends one copy to every other worker in the net
(Catalyurek and Aykanat 1999).  A tensor whose readers add up sums has a net for every row of theirs: the row,
and all neurons that it reads; every other worker in the net sends one sum.  In both cases a net costs the
values of its tensor times the number of workers in it, less one: exactly what the plan sends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse import csr_array

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.model.weights import entries
from repurpose_hpc.plan.masks import EVERYBODY

# Weights that are no whole numbers are multiples of its inverse, so that sums of them are exact.
GRID = 2.0**16


def pattern(mixing: Mixing) -> csr_array:
    """The non-zero weights of each pair of neurons, counted: (m, n), int64; of sparse ones no dense array."""
    m, taps = len(mixing.bias), mixing.taps
    nothing = np.empty(0, np.int64)
    found = [(each.rows, each.columns) for each in entries(mixing.weights)]
    rows, columns = (np.concatenate([nothing, *(each[k] for each in found)]) for k in range(2))
    shape = (m, mixing.weights.shape[1] // taps)
    # Entries of one pair are added up.
    return csr_array((np.ones(rows.size, np.int64), (rows, columns // taps)), shape)


@dataclass(frozen=True, eq=False)
class Nets:
    """Some nets.

    Attributes:
        pins: vertices of every net, (nets, V) bool.
        weights: what a net costs for every worker in it but one, (nets,).
    """

    pins: csr_array
    weights: np.ndarray

    def volume(self, owner: np.ndarray, workers: int) -> float:
        """The cost of all nets if vertices have these owners, (V,), all from 0 to ``workers`` - 1."""
        touched = np.zeros((self.weights.size, workers), bool)
        touched[np.repeat(np.arange(len(touched)), np.diff(self.pins.indptr)), owner[self.pins.indices]] = (
            True
        )
        return float(self.weights @ (touched.sum(axis=1) - 1))


class NetworkNets:
    """The nets of a network in both forms of each tensor.

    Args:
        network: any but one of tokens.
        inputs: owners of the neurons of input spaces, by name; those of ``EVERYBODY`` are in no net.
        activity: tensor -> values of each of its neurons that are sent, on average, (n,); None: all.

    Attributes:
        vertices: how many, V.
        fixed: owners of inputs, ``EVERYBODY`` for all else, (V,).
        is_open: bool, whether a vertex is of no input, (V,).
    """

    def __init__(
        self,
        network: Network,
        inputs: Mapping[str, np.ndarray],
        activity: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.network, self.activity = network, activity
        self._numbers, self.vertices = {}, 0
        for space in network.free_spaces:
            self._numbers[space.name] = self.vertices + np.arange(space.neurons)
            self.vertices += space.neurons
        self.fixed, self.is_open = np.full(self.vertices, EVERYBODY, np.int64), np.ones(self.vertices, bool)
        for name, owner in inputs.items():
            self.fixed[self.of_space(name)], self.is_open[self.of_space(name)] = owner, False
        self._is_common = ~self.is_open & (self.fixed == EVERYBODY)

    def of_space(self, name: str) -> np.ndarray:
        """The vertices of a free space, (n,)."""
        return self._numbers[name]

    def of_tensor(self, tensor: str) -> np.ndarray:
        """The vertex of each neuron of a tensor, (n,)."""
        return self.network.gather(self._numbers, tensor)

    def readers(self, tensor: str) -> list[Mixing]:
        """The mixings that read a tensor, but for those whose rows everybody has."""
        return [
            mixing
            for mixing in self.network.mixings
            if mixing.source == tensor and not self._is_common[self.of_tensor(mixing.target)].all()
        ]

    def may_sum(self, tensor: str) -> bool:
        """Whether sums can be sent instead of a tensor: not of neurons that everybody has."""
        return not self._is_common[self.of_tensor(tensor)].any()

    def ghosts(self, tensor: str) -> Nets:
        """A net for every neuron of a tensor."""
        source, values = self.of_tensor(tensor), self.network.values(tensor)
        rows = [self._incidence(pattern(mixing).T.tocoo(), mixing.target) for mixing in self.readers(tensor)]
        weights = np.full(source.size, float(values))
        if self.activity is not None and tensor in self.activity:
            weights = np.ceil(self.activity[tensor] * GRID) / GRID
        return self._nets(source, rows, weights)

    def sums(self, tensor: str) -> Nets:
        """A net for every row that reads a tensor."""
        parts = []
        for mixing in self.readers(tensor):
            target = self.of_tensor(mixing.target)
            columns = [self._incidence(pattern(mixing).tocoo(), tensor)]
            weights = np.full(target.size, float(self.network.values(mixing.target)))
            parts.append(self._nets(target, columns, weights))
        return joined(parts, self.vertices)

    def _incidence(self, links: sparse.coo_array, tensor: str) -> tuple[np.ndarray, np.ndarray]:
        """Nets, which are the rows of ``links``, and their vertices, the neurons of a tensor."""
        rows, columns = links.coords
        return rows, self.of_tensor(tensor)[columns]

    def _nets(
        self, own: np.ndarray, incidences: list[tuple[np.ndarray, np.ndarray]], weights: np.ndarray
    ) -> Nets:
        """Nets around the vertices ``own``, without those that can cost nothing."""
        rows = np.concatenate([np.arange(own.size), *(rows for rows, _ in incidences)])
        vertices = np.concatenate([own, *(vertices for _, vertices in incidences)])
        kept = ~(self._is_common[own][rows] | self._is_common[vertices])
        ones = np.ones(int(kept.sum()), bool)
        pins = csr_array((ones, (rows[kept], vertices[kept])), (own.size, self.vertices))
        counts = (np.diff(pins.indptr) > 1) & (weights > 0)
        return Nets(pins[np.flatnonzero(counts)], weights[counts])


def joined(nets: Iterable[Nets], vertices: int) -> Nets:
    """All nets of several lists of them."""
    empty = Nets(csr_array((0, vertices), dtype=bool), np.zeros(0))
    parts = [empty, *nets]
    pins = csr_array(sparse.vstack([part.pins for part in parts], format="csr"))
    return Nets(pins, np.concatenate([part.weights for part in parts]))
