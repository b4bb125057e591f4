"""Step 2 for the whole network: who owns which neuron, with the next mixing in view.

The owners of a space serve two mixings: the one that makes it, whose rows they divide, and the one
that uses it, whose inputs they divide.  They are first chosen in the order of execution for the making
mixing alone; then spaces are visited forward and back, and the neurons of each are *drafted* by the
workers for both mixings, while that lowers the error of all mixings together when nothing is sent at all.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np

from repurpose_hpc.kernels import project_out
from repurpose_hpc.plan.plan import EVERYBODY
from repurpose_hpc.restructure.assignment import assign, residual_costs
from repurpose_hpc.restructure.forms import Problem

# Forward and back at most so many times, and only while a sweep lowers the error by this share of it.
SWEEPS = 3
SETTLED = 0.01


def assignment_costs(problem: Problem, supports: np.ndarray) -> np.ndarray:
    """C[i, q], (m, P): what row i costs as worker q's, in the metric; collective.

    Where all links cost the same, that is the error left with the neurons of ``supports[q]``.  Otherwise
    every part of the error counts by the cheapest link over which it could be avoided: neurons behind
    links of at most some price are taken as available, for every price that occurs.

    Args:
        problem: the mixing.
        supports: bool, (P, n).
    """
    weight = np.diag(problem.metric)[:, None]
    highest = problem.ghost_costs[~np.eye(problem.workers, dtype=bool)].max(initial=0)

    def column(q: int) -> np.ndarray:
        prices = problem.ghost_costs[:, q].copy()
        prices[q] = 0
        levels, total = np.unique(prices), np.zeros(len(weight))
        for level, next_level in zip(levels[:-1], levels[1:], strict=True):
            near = supports[q] | np.isin(problem.source_owner, np.flatnonzero(prices <= level))
            total += (next_level - level) * residual_costs(problem.moments, near)
        return total / highest if highest else residual_costs(problem.moments, supports[q])

    return weight * np.stack(problem.team.map(column, range(problem.workers)), axis=1)


def assign_rows(
    problem: Problem, supports: np.ndarray, capacity: np.ndarray, ahead: np.ndarray
) -> np.ndarray:
    """Owners of the rows, (m,) int32, when worker q may use the neurons ``supports[q]``; collective.

    Args:
        problem: the mixing.
        supports: bool, (P, n).
        capacity: of the workers, (P,).
        ahead: what the next mixing gains if neuron i is worker q's, (m, P).
    """
    costs = assignment_costs(problem, supports) - ahead
    # By one rank, which compiles the kernel for all.
    return problem.team.map(lambda costs: assign(costs, capacity), [costs])[0]


def draft(problem: Problem, owner: np.ndarray, making: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """New owners of the source space of ``problem``: workers take turns in choosing a neuron.

    Each takes the neuron that lowers the error of its rows of the using mixing most, given those it
    already has (orthogonal least squares), less what the neuron costs more than elsewhere in the making
    mixing.

    Args:
        problem: the using mixing.
        owner: of its rows, (m,).
        making: costs of the neurons in the making mixing, (n, P).
        capacity: of the workers in the space, (P,).

    Returns:
        owners, (n,) int32.
    """
    H, n = problem.moments.H, len(problem.moments.H)
    weight = np.sqrt(np.diag(problem.metric))[:, None]
    handicap = making - making.mean(axis=1, keepdims=True)
    hands = [_Hand(H, (weight * problem.moments.R)[owner == q], int(size)) for q, size in enumerate(capacity)]
    chosen = np.full(n, EVERYBODY, np.int32)
    for _ in range(n):
        # Everybody's share fills at the same pace.
        q = int(np.argmin([(hand.size + 1) / size if hand.size < size else np.inf
                           for hand, size in zip(hands, capacity, strict=True)]))  # fmt: skip
        score = np.where(chosen == EVERYBODY, hands[q].gains() - handicap[:, q], -np.inf)
        j = int(score.argmax())
        chosen[j] = q
        hands[q].take(j)
    return chosen


class _Hand:
    """What one worker of a draft has, and what every further neuron would bring it."""

    def __init__(self, H: np.ndarray, R: np.ndarray, capacity: int) -> None:
        self.H, self.correlation, self.variance = H, np.array(R, order="C"), np.diag(H).copy()
        self.squares = np.einsum("ij,ij->j", R, R)
        self.Z = np.empty((capacity, len(H)))
        self.size = 0

    def gains(self) -> np.ndarray:
        """By how much each neuron would lower the error, (n,)."""
        return self.squares / np.maximum(self.variance, np.finfo(float).tiny)

    def take(self, j: int) -> None:
        """Add neuron ``j``."""
        Z, scale = self.Z[: self.size], 1 / np.sqrt(self.variance[j])
        z = scale * (self.H[j] - Z[:, j] @ Z)
        project_out(self.correlation, scale * self.correlation[:, j], z, self.squares)
        self.variance = self.variance - z * z
        self.Z[self.size] = z
        self.size += 1


def benefits(problem: Problem, owner: np.ndarray) -> np.ndarray:
    """What the mixing gains if worker q has source neuron j without asking, (n, P); collective.

    For a neuron that q has, the error that its loss would cause; for any other, the error that it would
    avoid: each by itself, all others staying where they are.

    Args:
        problem: the mixing, with the owners of its source.
        owner: of its rows, (m,).
    """
    H, own, root = problem.moments.H, problem.own(), np.sqrt(np.diag(problem.metric))[:, None]

    def column(q: int) -> np.ndarray:
        R, S = (root * problem.moments.R)[owner == q], np.flatnonzero(own[q])
        Hinv = np.linalg.inv(H[np.ix_(S, S)])
        V = R[:, S] @ Hinv
        correlation, through = R - V @ H[S], Hinv @ H[S]
        variance = np.diag(H) - np.einsum("ij,ij->j", H[S], through)
        gain = np.einsum("ij,ij->j", correlation, correlation) / np.maximum(variance, np.finfo(float).tiny)
        gain[S] = np.einsum("ij,ij->j", V, V) / np.diag(Hinv)
        return gain

    return np.stack(problem.team.map(column, range(problem.workers)), axis=1)


def own_error(problem: Problem, owner: np.ndarray) -> float:
    """Error of the mixing if nothing is sent (``assignment_costs`` of the owners chosen); collective."""
    return float(assignment_costs(problem, problem.own())[np.arange(owner.size), owner].sum())


class Sweep:
    """The owners of all spaces of a chain, improved space by space.

    Args:
        problem_of: mixing number, owners of its source -> the mixing's problem.
        wide: whether each mixing sends ghosts rather than sums, so that the owners of its source matter.
        owners: of the input, (n_0,), then of the target of every mixing.
        capacities: of the workers in the target space of every mixing, (P,) each.
    """

    def __init__(
        self,
        problem_of: Callable[[int, np.ndarray], Problem],
        wide: list[bool],
        owners: list[np.ndarray],
        capacities: list[np.ndarray],
    ) -> None:
        self.problem_of, self.wide = problem_of, wide
        self.owners, self.capacities = owners, capacities
        self.errors = [self._error(number, owners) for number in range(len(wide))]
        self.seen: dict[int, list[np.ndarray]] = {}

    def run(self) -> list[np.ndarray]:
        """Forward and back until the error settles; collective.

        Returns:
            the owners.
        """
        inner = list(range(len(self.wide) - 1))
        for _ in range(SWEEPS):
            before = sum(self.errors)
            for number in inner + inner[-2::-1]:
                self._visit(number)
            if sum(self.errors) > (1 - SETTLED) * before:
                break
        return self.owners

    def _error(self, number: int, owners: list[np.ndarray]) -> float:
        if not self.wide[number]:
            return 0.0
        return own_error(self.problem_of(number, owners[number]), owners[number + 1])

    def _visit(self, number: int) -> None:
        """Draft the space between mixings ``number`` and ``number + 1``, and keep that if it helps."""
        around = self.owners[number : number + 3]
        seen = self.seen.get(number)
        if not self.wide[number + 1] or (seen and all(map(operator.is_, seen, around))):
            return
        self.seen[number] = around
        maker = self.problem_of(number, self.owners[number])
        user = self.problem_of(number + 1, self.owners[number + 1])
        making = assignment_costs(maker, maker.own())
        task = (user, self.owners[number + 2], making, self.capacities[number])
        # By one rank, which compiles the kernel for all.
        drafted = user.team.map(lambda task: draft(*task), [task])[0]
        owners = [*self.owners[: number + 1], drafted, *self.owners[number + 2 :]]
        errors = [self._error(k, owners) for k in (number, number + 1)]
        if sum(errors) < sum(self.errors[number : number + 2]):
            self.owners, self.errors[number : number + 2] = owners, errors
