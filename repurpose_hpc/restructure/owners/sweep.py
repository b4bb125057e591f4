"""Owners of all spaces of a network, improved space by space.

A space serves the mixings that make it, whose rows its owners divide, and those that read it, whose
inputs they divide; tied tensors (residual connections) give it several of both.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.restructure.owners.costs import assignment_costs, draft, own_error
from repurpose_hpc.restructure.support.forms import Problem

# Forward and back at most so many times, and only while a sweep lowers the error by this share of it.
SWEEPS = 3
SETTLED = 0.01

Owners = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Around:
    """A space and the mixings around it.

    Attributes:
        name: of the space, a free one.
        neurons: how many it has.
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
    index: dict[str, np.ndarray]
    spaces: tuple[str, ...]
    groups: np.ndarray | None = None

    def scatter(self, costs: np.ndarray, tensor: str) -> np.ndarray:
        """Rows of ``costs``, (neurons of ``tensor``, P), added up for the neurons of the space."""
        total, index = np.zeros((self.neurons, costs.shape[1])), self.index[tensor]
        np.add.at(total, index[index >= 0], costs[index >= 0])
        return total


def surroundings(network: Network, is_wide: Callable[[Mixing], bool]) -> dict[str, Around]:
    """What is around every free space but those of inputs, by name, in the order of execution.

    ``fixed`` mixings, of which nothing is chosen, are left out.
    """
    trained = [mixing for mixing in network.mixings if not mixing.fixed]
    found: dict[str, Around] = {}
    for maker in trained:
        for name in network.parts(maker.target):
            if name not in found and name not in network.input_spaces:
                found[name] = _around(network, name, trained, is_wide)
    return found


def _around(network: Network, name: str, trained: list[Mixing], is_wide: Callable[[Mixing], bool]) -> Around:
    makers = tuple(m for m in trained if name in network.parts(m.target))
    readers = [m for m in trained if name in network.parts(m.source)]
    users = tuple(filter(is_wide, readers))
    tensors = {*(m.target for m in makers), *(m.source for m in readers)}
    index = {tensor: network.neurons_in(tensor, name) for tensor in sorted(tensors)}
    neurons = next(space.neurons for space in network.free_spaces if space.name == name)
    spaces = {part for m in (*makers, *users) for end in (m.source, m.target) for part in network.parts(end)}
    found = (_groups(reader, index[reader.source], neurons) for reader in readers)
    groups = next((each for each in found if each is not None), None)
    return Around(name, neurons, makers, users, index, tuple(sorted(spaces)), groups)


def _groups(reader: Mixing, index: np.ndarray, neurons: int) -> np.ndarray | None:
    """``Around.groups``, as one reader sees the space."""
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


class Sweep:
    """Visits the spaces forward and back; *drafts* their neurons anew where that lowers the error.

    Args:
        around: the spaces that have users are visited.
        wide: all mixings that send inputs rather than sums, of which the error is to be lowered.
        problem_of: a mixing, and owners of the free spaces -> its problem, the owners of its rows.
        owners: of the free spaces.
        capacities: of the workers in every space visited, (P,) each.
    """

    def __init__(
        self,
        around: Sequence[Around],
        wide: Sequence[Mixing],
        problem_of: Callable[[Mixing, Owners], tuple[Problem, np.ndarray]],
        owners: Owners,
        capacities: dict[str, np.ndarray],
    ) -> None:
        self.around = [each for each in around if each.users]
        self.problem_of, self.owners, self.capacities = problem_of, dict(owners), capacities
        self.errors = {mixing.name: self._error(mixing, owners) for mixing in wide}
        self.seen: dict[str, list[np.ndarray]] = {}

    def run(self) -> Owners:
        """Forward and back until the error settles; collective.

        Returns:
            the owners of the free spaces.
        """
        for _ in range(SWEEPS):
            before = sum(self.errors.values())
            for each in self.around + self.around[-2::-1]:
                self._visit(each)
            if sum(self.errors.values()) > (1 - SETTLED) * before:
                break
        return self.owners

    def _error(self, mixing: Mixing, owners: Owners) -> float:
        return own_error(*self.problem_of(mixing, owners))

    def _visit(self, around: Around) -> None:
        """Draft a space, and keep that if it helps all mixings around it together."""
        state = [self.owners[name] for name in around.spaces]
        seen = self.seen.get(around.name)
        if seen and all(map(operator.is_, seen, state)):
            return
        self.seen[around.name] = state
        users = [(*self.problem_of(user, self.owners), around.index[user.source]) for user in around.users]
        task = (users, self._making(around), self.capacities[around.name])
        # By one rank, which compiles the kernel for all.
        drafted = users[0][0].team.map(lambda task: draft(*task), [task])[0]
        owners = {**self.owners, around.name: drafted}
        touched = {m.name: m for m in (*around.makers, *around.users) if m.name in self.errors}
        errors = {name: self._error(mixing, owners) for name, mixing in touched.items()}
        if sum(errors.values()) < sum(self.errors[name] for name in errors):
            self.owners = owners
            self.errors.update(errors)

    def _making(self, around: Around) -> np.ndarray:
        """What every neuron costs as each worker's in the mixings that make it, (neurons, P)."""
        total: np.ndarray | float = 0.0
        for maker in around.makers:
            problem, _ = self.problem_of(maker, self.owners)
            total = total + around.scatter(assignment_costs(problem, problem.own()), maker.target)
        return np.asarray(total)
