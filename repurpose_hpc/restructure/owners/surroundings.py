"""The mixings around a space: those that make it, whose rows its owners divide, and those that read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing


@dataclass(frozen=True, eq=False)
class Surroundings:
    """A space and the mixings around it.

    Attributes:
        name: of the space, a free one.
        neurons: their number.
        makers: mixings whose target has neurons of the space.
        users: mixings whose source has, and that send inputs rather than sums, so that owners matter.
        index: tensor -> for each of its neurons the neuron of the space, -1 for those of others.
        spaces: all free spaces that makers and users read or make.
        groups: for each neuron a number that it has in common with those that the same rows read, where the
            readers of the space fall apart (grouped convolutions); None where they do not.
    """

    name: str
    neurons: int
    makers: tuple[Mixing, ...]
    users: tuple[Mixing, ...]
    index: Mapping[str, np.ndarray]
    spaces: tuple[str, ...]
    groups: np.ndarray | None = None

    def scatter(self, costs: np.ndarray, tensor: str) -> np.ndarray:
        """Rows of ``costs``, (neurons of ``tensor``, P), added up for the neurons of the space."""
        total, index = np.zeros((self.neurons, costs.shape[1])), self.index[tensor]
        np.add.at(total, index[index >= 0], costs[index >= 0])
        return total

    def is_made_by(self, mixing: Mixing) -> bool:
        """True if ``mixing`` makes neurons of the space."""
        return mixing.target in self.index and bool((self.index[mixing.target] >= 0).any())

    def restricted(self, members: np.ndarray) -> Surroundings:
        """The same for some neurons only, numbered anew: those of the others are as of other spaces.

        Args:
            members: neurons of the space, rising.
        """
        place = np.append(np.full(self.neurons, -1), -1)
        place[members] = np.arange(len(members))
        index = {tensor: place[neurons] for tensor, neurons in self.index.items()}
        groups = None if self.groups is None else self.groups[members]
        return replace(self, neurons=len(members), index=index, groups=groups)


def surroundings(network: Network, is_wide: Callable[[Mixing], bool]) -> dict[str, Surroundings]:
    """The mixings around every free space but those of inputs, by name, in the order of execution.

    ``fixed`` mixings, of which nothing is chosen, are left out.
    """
    trained = [mixing for mixing in network.mixings if not mixing.fixed]
    surroundings: dict[str, Surroundings] = {}
    for maker in trained:
        for name in network.parts(maker.target):
            if name not in surroundings and name not in network.input_spaces:
                surroundings[name] = _surroundings(network, name, trained, is_wide)
    return surroundings


def _surroundings(
    network: Network, name: str, trained: list[Mixing], is_wide: Callable[[Mixing], bool]
) -> Surroundings:
    makers = tuple(m for m in trained if name in network.parts(m.target))
    readers = [m for m in trained if name in network.parts(m.source)]
    users = tuple(filter(is_wide, readers))
    tensors = {*(m.target for m in makers), *(m.source for m in readers)}
    index = {tensor: network.neurons_in(tensor, name) for tensor in sorted(tensors)}
    neurons = next(space.neurons for space in network.free_spaces if space.name == name)
    spaces = {part for m in (*makers, *users) for end in (m.source, m.target) for part in network.parts(end)}
    by_reader = (_groups(reader, index[reader.source], neurons) for reader in readers)
    groups = next((groups for groups in by_reader if groups is not None), None)
    return Surroundings(name, neurons, makers, users, index, tuple(sorted(spaces)), groups)


def _groups(reader: Mixing, index: np.ndarray, neurons: int) -> np.ndarray | None:
    """``Surroundings.groups``, as one reader sees the space."""
    if reader.links.all():
        return None
    rows, columns = np.nonzero(reader.links)
    first = len(reader.bias)  # of the neurons, in a graph of rows and neurons
    size = first + index.size
    graph = csr_array((np.ones(rows.size, bool), (rows, first + columns)), (size, size))
    _, component = connected_components(graph, directed=False)
    groups = size + np.arange(neurons)
    groups[index[index >= 0]] = component[first:][index >= 0]
    return groups if 1 < np.unique(groups).size < neurons else None
