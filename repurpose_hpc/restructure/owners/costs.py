"""Steps 2.2 and 3.4: costs and benefits of a worker owning a neuron, with the next mixings in view.

The owners of a space serve the mixings that make it, whose rows they divide, and those that use it,
whose inputs they divide.  They are first chosen in the order of execution for the making mixings alone;
then the neurons of each space are *drafted* by the workers for both (``sweep``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from repurpose_hpc.kernels import project_out
from repurpose_hpc.model.weights import column_numbers
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.restructure.owners.assignment import assign, residual_costs
from repurpose_hpc.restructure.support.elimination import block_changes, block_grams, diagonal_blocks
from repurpose_hpc.restructure.support.problem import MixingProblem


def assignment_costs(problem: MixingProblem, supports: np.ndarray) -> np.ndarray:
    """C[i, q], (m, P): cost of row i if worker q owns it, in the metric; collective.

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
            support = supports[q] | np.isin(problem.source_owner, np.flatnonzero(prices <= level))
            total += (next_level - level) * residual_costs(problem.moments, problem.columns(support))
        return total / highest if highest else residual_costs(problem.moments, problem.columns(supports[q]))

    return weight * np.stack(problem.team.map(column, range(problem.workers)), axis=1)


def assign_rows(
    problem: MixingProblem, supports: np.ndarray, capacity: np.ndarray, later_gains: np.ndarray
) -> np.ndarray:
    """Owners of the rows, (m,) int32, when worker q may use the neurons ``supports[q]``; collective.

    Args:
        problem: the mixing.
        supports: bool, (P, n).
        capacity: of the workers, (P,).
        later_gains: what the next mixing gains if neuron i is worker q's, (m, P).
    """
    costs = assignment_costs(problem, supports) - later_gains
    # By one rank, which compiles the kernel for all.
    return problem.team.map(lambda costs: assign(costs, capacity), [costs])[0]


def draft(
    users: Sequence[tuple[MixingProblem, np.ndarray, np.ndarray]], making: np.ndarray, capacity: np.ndarray
) -> np.ndarray:
    """New owners of a space: workers take turns in choosing a neuron.

    Each takes the neuron that lowers the error of its rows of the using mixings most, given those it
    already has (orthogonal least squares), less what the neuron costs more than elsewhere in the making
    mixings.

    Args:
        users: of each using mixing its problem, the owners of its rows, (m,), and for each of its source
            neurons which one of the space it is, (n_source,), -1 for those of other spaces: their owners
            have them.  Several may be one.
        making: costs of the neurons in the making mixings, (n, P).
        capacity: of the workers in the space, (P,).

    Returns:
        owners, (n,) int32.
    """
    handicap = making - making.mean(axis=1, keepdims=True)
    hands = [[_Hand(*user, q, int(size)) for user in users] for q, size in enumerate(capacity)]
    counts, chosen = np.zeros(len(capacity), np.int64), np.full(len(making), EVERYBODY, np.int32)
    for _ in range(len(making)):
        # Everybody's share fills at the same pace.
        q = int(np.argmin([(count + 1) / size if count < size else np.inf
                           for count, size in zip(counts, capacity, strict=True)]))  # fmt: skip
        unowned = chosen == EVERYBODY
        gains = sum(hand.gains(unowned) for hand in hands[q])
        j = int(np.where(unowned, gains - handicap[:, q], -np.inf).argmax())
        chosen[j] = q
        counts[q] += 1
        for hand in hands[q]:
            hand.take(j)
    return chosen


class _Hand:
    """A worker's part of the source of one mixing in a draft, and the gain of every further neuron.

    Args:
        problem, owner, index: as in ``draft``.
        q: the worker.
        capacity: neurons that it may take.
    """

    def __init__(
        self, problem: MixingProblem, owner: np.ndarray, index: np.ndarray, q: int, capacity: int
    ) -> None:
        self.H, self.index, self.taps = problem.moments.H, index, problem.taps
        weight = np.sqrt(np.diag(problem.metric))[:, None]
        R = (weight * problem.moments.R)[owner == q]
        S = np.flatnonzero(problem.columns(problem.own()[q] & (index < 0)))
        repeats = np.bincount(index[index >= 0]).max(initial=0)
        self.Z, self.size = np.empty((len(S) + capacity * repeats * self.taps, len(self.H))), len(S)
        L = cholesky(self.H[np.ix_(S, S)], lower=True)
        self.Z[: len(S)] = solve_triangular(L, self.H[S], lower=True)
        explained = solve_triangular(L, R[:, S].T, lower=True).T @ self.Z[: len(S)]
        self.correlation = np.array(R - explained, order="C")
        self.variance = diagonal_blocks(self.H, self.taps) - self._grams(self.Z[: len(S)])
        self.products = self._grams(self.correlation)

    def gains(self, unowned: np.ndarray) -> np.ndarray:
        """Fall of the error with each neuron of the space, (n,); 0 for those not ``unowned``."""
        candidates = np.flatnonzero((self.index >= 0) & unowned[self.index])
        gains = block_changes(self.variance[candidates], self.products[candidates])
        return np.bincount(self.index[candidates], gains, minlength=len(unowned))

    def take(self, j: int) -> None:
        """Add neuron ``j`` of the space."""
        squares = np.empty(len(self.H))
        new_columns = column_numbers(np.flatnonzero(self.index == j), self.taps)
        for column in new_columns:
            Z = self.Z[: self.size]
            z = self.H[column] - Z[:, column] @ Z
            scale = 1 / np.sqrt(z[column])
            z *= scale
            project_out(self.correlation, scale * self.correlation[:, column], z, squares)
            self.variance -= self._grams(z[None])
            self.Z[self.size] = z
            self.size += 1
        if new_columns.size:
            self.products = squares[:, None, None] if self.taps == 1 else self._grams(self.correlation)

    def _grams(self, rows: np.ndarray) -> np.ndarray:
        return block_grams(rows, rows, self.taps)


def benefits(problem: MixingProblem, owner: np.ndarray) -> np.ndarray:
    """Gain of the mixing if worker q owns source neuron j, (n, P); collective.

    For a neuron that q has, the error that its loss would cause; for any other, the error that it would
    avoid: each by itself, all others staying where they are.

    Args:
        problem: the mixing, with the owners of its source.
        owner: of its rows, (m,).
    """
    H, own, taps = problem.moments.H, problem.own(), problem.taps
    root = np.sqrt(np.diag(problem.metric))[:, None]

    def column(q: int) -> np.ndarray:
        R, S = (root * problem.moments.R)[owner == q], np.flatnonzero(problem.columns(own[q]))
        Hinv = np.linalg.inv(H[np.ix_(S, S)])
        V = R[:, S] @ Hinv
        correlation, through = R - V @ H[S], Hinv @ H[S]
        variance = (diagonal_blocks(H, taps) - block_grams(H[S], through, taps))[~own[q]]
        gain = np.empty(len(own[q]))
        gain[~own[q]] = block_changes(variance, block_grams(correlation, correlation, taps)[~own[q]])
        gain[own[q]] = block_changes(diagonal_blocks(Hinv, taps), block_grams(V, V, taps))
        return gain

    return np.stack(problem.team.map(column, range(problem.workers)), axis=1)


def own_error(problem: MixingProblem, owner: np.ndarray) -> float:
    """Error of the mixing if nothing is sent (``assignment_costs`` of the owners chosen); collective."""
    return float(assignment_costs(problem, problem.own())[np.arange(owner.size), owner].sum())
