"""Step 2.2: owners of all spaces of a network, improved space by space.

A space serves the mixings that make it, whose rows its owners divide, and those that read it, whose
inputs they divide; tied tensors (residual connections) give it several of both.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from repurpose_hpc.io.progress import PENDING
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.restructure.context import CutContext
from repurpose_hpc.restructure.decisions import Decisions, Owners
from repurpose_hpc.restructure.owners.costs import assignment_costs, draft, own_error
from repurpose_hpc.restructure.owners.surroundings import Surroundings
from repurpose_hpc.restructure.support.problem import MixingProblem

# Sweeps go on only while one lowers the error by this share of it.
SETTLED = 0.01


@dataclass(frozen=True, eq=False)
class Piece:
    """Neurons of a space whose owners are open.

    Attributes:
        space: the mixings around them (``Surroundings.restricted``).
        members: their numbers in the space, (n,).
        capacity: the most that each worker may own of them, (P,).
    """

    space: Surroundings
    members: np.ndarray
    capacity: np.ndarray


def whole_spaces(context: CutContext, decisions: Decisions) -> list[Piece]:
    """Every space as one piece."""
    capacities, spaces = decisions.capacities, context.surroundings.values()
    return [Piece(space, np.arange(space.neurons), capacities[space.name]) for space in spaces]


def draft_owners(context: CutContext, decisions: Decisions, pieces: Sequence[Piece]) -> Decisions:
    """Owners of the neurons in ``pieces``, improved for the mixings before and behind them; collective."""
    if context.options.assignment != "munkres" or context.options.workers == 1:
        return decisions
    context.log(f"choosing owners for the mixings before and behind them{PENDING}")
    sweep = Sweep(
        pieces=pieces,
        wide=[mixing for mixing in context.mixings if context.is_wide(mixing)],
        problem_of=lambda mixing, owners: context.original_problem(decisions, mixing, owners),
        owners=decisions.owners,
    )
    return decisions.with_owners(sweep.run(context.method.look_ahead))


class Sweep:
    """Visits the spaces forward and back; *drafts* their neurons anew where that lowers the error.

    Args:
        pieces: those that have users are visited.
        wide: all mixings that send inputs rather than sums, of which the error is to be lowered.
        problem_of: a mixing, and owners of the free spaces -> its problem, the owners of its rows.
        owners: of the free spaces.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        wide: Sequence[Mixing],
        problem_of: Callable[[Mixing, Owners], tuple[MixingProblem, np.ndarray]],
        owners: Owners,
    ) -> None:
        self.pieces = [piece for piece in pieces if piece.space.users]
        self.problem_of, self.owners = problem_of, owners
        self.errors = {mixing.name: self._error(mixing, owners) for mixing in wide}
        self.states: dict[int, list[np.ndarray]] = {}

    def run(self, sweeps: int) -> Owners:
        """Go forward and back until the error settles, ``sweeps`` times at most; collective.

        Returns:
            the owners of the free spaces.
        """
        for _ in range(sweeps):
            previous_error = sum(self.errors.values())
            for number in [*range(len(self.pieces)), *reversed(range(len(self.pieces) - 1))]:
                self._visit(number)
            if sum(self.errors.values()) > (1 - SETTLED) * previous_error:
                break
        return self.owners

    def _error(self, mixing: Mixing, owners: Owners) -> float:
        return own_error(*self.problem_of(mixing, owners))

    def _visit(self, number: int) -> None:
        """Draft a piece, and keep that if it helps all mixings around it together."""
        piece, space = self.pieces[number], self.pieces[number].space
        state = [self.owners[name] for name in space.spaces]
        previous_state = self.states.get(number)
        if previous_state and all(map(operator.is_, previous_state, state)):
            return
        self.states[number] = state
        users = [(*self.problem_of(user, self.owners), space.index[user.source]) for user in space.users]
        task = (users, self._making(space), piece.capacity)
        # By one rank, which compiles the kernel for all.
        drafted = users[0][0].team.map(lambda task: draft(*task), [task])[0]
        owner = self.owners[space.name].copy()
        owner[piece.members] = drafted
        owners = {**self.owners, space.name: owner}
        touched = {m.name: m for m in (*space.makers, *space.users) if m.name in self.errors}
        errors = {name: self._error(mixing, owners) for name, mixing in touched.items()}
        if sum(errors.values()) < sum(self.errors[name] for name in errors):
            self.owners = owners
            self.errors.update(errors)

    def _making(self, space: Surroundings) -> np.ndarray:
        """Costs of every neuron as each worker's in the mixings that make it, (neurons, P)."""
        problems = [(maker, self.problem_of(maker, self.owners)[0]) for maker in space.makers]
        costs = [space.scatter(assignment_costs(p, p.own()), maker.target) for maker, p in problems]
        return np.sum(costs, axis=0)
