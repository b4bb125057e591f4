"""Step 2.3: branches, parts of a network between whose neurons there are no weights, or hardly any.

The vertices of the graph of neurons are those of all free spaces but the inputs, which every branch may
read; tied neurons are one vertex.  Its edges are weights.  Where branches end in the same outputs, sums of
few values join them: such *readouts*, neurons that no mixing reads, are no part of the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing

# Links that join communities, relative to the typical strength of those of the same row.
LEVELS = (0.01, 0.1, 0.3)
# The most of what any mixing adds up that may come from other branches.
CUT = 0.1
# The least part of the computation that is outside the largest branch: less is not worth a change.
OTHERS = 0.1
# Rows that are joined at a time.
SLAB = 256
# More communities than that are fragments.
MOST = 256
NONE = -1


@dataclass(frozen=True, eq=False)
class Branches:
    """A division of the neurons of a network.

    Attributes:
        number: free space -> the branch of each neuron, from 0, (n,); ``NONE`` for inputs and for readouts
            that several branches end in.
        loads: mixing -> multiply-adds in each branch, (branches,).
    """

    number: Mapping[str, np.ndarray]
    loads: Mapping[str, np.ndarray]

    @property
    def total(self) -> np.ndarray:
        """Share of each branch in the computation of the network, (branches,), summing to 1; 0 of nothing."""
        total = np.sum([*self.loads.values()], axis=0)
        return total / max(total.sum(), 1)


def find_branches(network: Network, energies: Mapping[str, np.ndarray]) -> Branches | None:
    """The branches of a network; None if it is all one.

    Connected components are looked for first.  Where there is one only, weak links are left out, and lone
    neurons go where their strongest links are.

    Args:
        network: trained.
        energies: mixing that is not fixed -> what each source neuron contributes to the mean square of each
            target neuron, (m, n); 0 only where there is no weight.
    """
    graph = _Graph(network, energies)
    components = _divisions(graph, (0.0,))
    # The finest division into communities.
    found = components[:1] or sorted(_divisions(graph, LEVELS), key=lambda branches: -len(branches.total))[:1]
    return found[0] if found else None


def _divisions(graph: _Graph, levels: Sequence[float]) -> list[Branches]:
    """The divisions of a graph at these levels, first those in which readouts join what they add up."""
    numbers = [graph.components(level, readouts) for level in levels for readouts in (True, False)]
    return [graph.branches(number) for number in numbers if number is not None and graph.is_divided(number)]


class _Edges(NamedTuple):
    """The edges that one mixing makes.

    Attributes:
        mixing: the mixing.
        links: bool (m, n), without the columns of inputs.
        energy: what they contribute to the mean square of each row, (m, n); of a fixed mixing all alike.
        source, target: vertices, (n,) and (m,).
    """

    mixing: Mixing
    links: np.ndarray
    energy: np.ndarray
    source: np.ndarray
    target: np.ndarray

    def strong(self, level: float) -> np.ndarray:
        """The links that count at a level of ``LEVELS``, bool (m, n); of a fixed mixing all."""
        if self.mixing.fixed or level == 0:
            return self.links
        squares, total = (self.energy**2).sum(axis=1), self.energy.sum(axis=1)
        typical = squares / np.where(total > 0, total, 1)
        return self.links & (self.energy >= level * typical[:, None])


class _Graph:
    """The graph of neurons, numbered from 0 over all free spaces.

    Args:
        network, energies: as of ``find_branches``.
    """

    def __init__(self, network: Network, energies: Mapping[str, np.ndarray]) -> None:
        self.network, self.energies = network, energies
        self.first, self.size = {}, 0
        for space in network.free_spaces:
            self.first[space.name] = self.size
            self.size += space.neurons
        is_input, is_read = np.zeros((2, self.size), bool)
        for name in network.input_spaces:
            is_input[self.vertices(name)] = True
        for mixing in network.mixings:
            is_read[self.ends(mixing)[0]] = True
        self.is_inner, self.is_readout = is_read & ~is_input, ~is_read & ~is_input

    def vertices(self, name: str) -> np.ndarray:
        """The vertices of a free space, (n,)."""
        neurons = next(space.neurons for space in self.network.free_spaces if space.name == name)
        return self.first[name] + np.arange(neurons)

    def ends(self, mixing: Mixing) -> tuple[np.ndarray, np.ndarray]:
        """The vertices of the source, (n,), and of the target, (m,)."""
        numbers = {space.name: self.vertices(space.name) for space in self.network.free_spaces}
        return self.network.gather(numbers, mixing.source), self.network.gather(numbers, mixing.target)

    def inner(self) -> Iterator[_Edges]:
        """The edges of every mixing that reads more than inputs."""
        for mixing in self.network.mixings:
            source, target = self.ends(mixing)
            inner = self.is_inner[source]
            if inner.any() and target.size:
                # Of a mixing that reads no inputs, nothing is copied.
                columns = slice(None) if inner.all() else inner
                energy = mixing.links if mixing.fixed else self.energies[mixing.name]
                yield _Edges(mixing, mixing.links[:, columns], energy[:, columns], source[columns], target)

    def components(self, level: float, readouts: bool) -> np.ndarray | None:
        """The connected component of every vertex, numbered from 0 by their first ones.

        Args:
            level: of links that count; 0: all.
            readouts: what one mixing reads for a readout is joined: a branch is one with its part of the
                output.

        Returns:
            (vertices,) integers, ``NONE`` of the inputs and of readouts between branches; None if the links
            left out are not weak.
        """
        labels = np.arange(self.size)
        for edges in self.inner():
            target, outside = edges.target, self.is_readout[edges.target]
            if outside.any() and readouts:
                # The part of a readout that this mixing makes is a vertex of its own.
                parts = len(labels) + np.arange(len(target))
                target, labels = np.where(outside, parts, target), np.concatenate([labels, parts])
            kept = slice(None) if readouts else ~outside
            labels = _joined(labels, target[kept], edges.source, edges.strong(level)[kept])
        number = np.where(self.is_inner, labels[: self.size], NONE)
        if level:
            settled = self._settled(number)
            if settled is None or self._largest_cut(settled) > CUT:
                return None
            number = settled
        return _numbered(self._with_readouts(number))

    def is_divided(self, number: np.ndarray) -> bool:
        """True if there are branches: of several neurons each, and none of nearly everything."""
        if number.max(initial=NONE) < 1:
            return False
        total = self.branches(number).total
        total[np.bincount(number[self.is_inner], minlength=len(total)) < 2] = 0
        return bool(total.sum() - total.max() >= OTHERS)

    def branches(self, number: np.ndarray) -> Branches:
        """The branches and their loads, from the branch of every vertex."""
        spaces = {space.name: number[self.vertices(space.name)] for space in self.network.free_spaces}
        count, loads = number.max() + 1, {}
        for mixing in self.network.mixings:
            source, target = (number[end] for end in self.ends(mixing))
            # A link belongs to the branch of its row or, before a readout, of its column.
            links = mixing.links * float(mixing.taps * self.network.values(mixing.target))
            load = np.bincount(target[target != NONE], links.sum(axis=1)[target != NONE], count)
            between = links[target == NONE].sum(axis=0)
            loads[mixing.name] = load + np.bincount(source[source != NONE], between[source != NONE], count)
        return Branches(spaces, loads)

    def _settled(self, number: np.ndarray) -> np.ndarray | None:
        """Components in which lone vertices have joined those of their strongest links; None: fragments."""
        sizes = np.bincount(number[self.is_inner], minlength=self.size)
        lone, groups = self.is_inner & (sizes[number] == 1), np.flatnonzero(sizes > 1)
        if groups.size > MOST or 2 * lone.sum() > self.is_inner.sum():
            return None
        pull = np.zeros((self.size, max(groups.size, 1)))
        for edges in self.inner():
            np.add.at(pull, edges.target, edges.energy @ (number[edges.source][:, None] == groups))
            np.add.at(pull, edges.source, edges.energy.T @ (number[edges.target][:, None] == groups))
        moves = lone & (pull.max(axis=1) > 0)
        return np.where(moves, groups[pull.argmax(axis=1)], number) if moves.any() else number

    def _largest_cut(self, number: np.ndarray) -> float:
        """The largest part of what a mixing adds up that comes from other components."""
        cuts = [0.0]
        for edges in self.inner():
            rows = ~self.is_readout[edges.target]
            energy, total = edges.energy[rows], edges.energy[rows].sum()
            apart = number[edges.target[rows]][:, None] != number[edges.source]
            cuts.append(float(energy[apart].sum() / total) if total > 0 else 0.0)
        return max(cuts)

    def _with_readouts(self, number: np.ndarray) -> np.ndarray:
        """Components with those readouts that only one of them ends in."""
        least, most = np.full(self.size, self.size), np.full(self.size, NONE)
        for edges in self.inner():
            outside = self.is_readout[edges.target]
            row, column = np.nonzero(edges.links[outside])
            readout, component = edges.target[outside][row], number[edges.source[column]]
            np.minimum.at(least, readout, component)
            np.maximum.at(most, readout, component)
        return np.where(self.is_readout & (least == most), most, number)


def _joined(labels: np.ndarray, rows: np.ndarray, columns: np.ndarray, links: np.ndarray) -> np.ndarray:
    """Labels of vertices, equal for those that links join.

    Args:
        labels: so far, (vertices,) integers below their number.
        rows, columns: vertices, (m,) and (n,).
        links: between them, bool (m, n).
    """
    for first in range(0, len(rows), SLAB):
        slab, some = links[first : first + SLAB], rows[first : first + SLAB]
        if np.ptp(labels[columns]) == 0:
            linked = some[slab.any(axis=1)]
            left, right = labels[linked], np.full(len(linked), labels[columns[0]])
        else:
            row, column = np.nonzero(slab)
            left, right = labels[some[row]], labels[columns[column]]
        edges = csr_array((np.ones(left.size, np.int8), (left, right)), (len(labels), len(labels)))
        labels = connected_components(edges, directed=False)[1][labels]
    return labels


def _numbered(number: np.ndarray) -> np.ndarray:
    """Components numbered from 0 in the order of their first vertices; ``NONE`` stays."""
    names, first, inverse = np.unique(number, return_index=True, return_inverse=True)
    order = np.argsort(np.where(names == NONE, -1, first))
    place = np.empty(len(names), np.int64)
    place[order] = np.arange(len(names)) - (names == NONE).any()
    return place[inverse]
