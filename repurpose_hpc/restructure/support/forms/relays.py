"""Relay form: combinations of neurons travel, and each worker ranks those it could be sent (step 3.2).

A *relay* is a linear neuron on the worker p whose neurons it combines.  For worker q the best relay of p,
given what q has already, is the leading direction of what p's neurons contribute to q's rows, in the metric
of the output and whitened by the covariance that is left (reduced-rank regression).  A ghost is a relay of
one neuron, and a partial sum one that a single row reads: neither avoids more error for its value.

Where a neuron has k columns, a relay has k as well, each a combination of the same neurons.  Candidates are
found as if the covariance were one between neurons times one between the entries of a kernel, and judged by
what it is.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

from repurpose_hpc.plan.relays import columns_of
from repurpose_hpc.restructure.support.elimination import (
    PANEL_FRACTION,
    Residual,
    column_numbers,
    metric_root,
    take,
)
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.tradeoff import NOTHING, Ranking, Tradeoff, ranked

# Relative to the variances: keeps covariances positive definite in the directions of chosen relays.
HINT = 1e-9
# Of the error without relays: what avoids less is rounding.
LEAST = 1e-10


def relay_tradeoff(problem: MixingProblem, owner: np.ndarray) -> Tradeoff:
    """Rank the relays that each worker could be sent by the error that they avoid; collective.

    Args:
        problem: the mixing; ``unfolded`` for relays behind its window.
        owner: of its rows, (m,).
    """
    own, limits = problem.own(), problem.most_ghosts(np.bincount(owner, minlength=problem.workers))

    def of_worker(q: int) -> tuple[Ranking, np.ndarray, float]:
        return _worker_relays(problem, q, np.flatnonzero(owner == q), own[q], int(limits[q]))

    found = problem.team.map(of_worker, range(problem.workers))
    rankings, combinations, floors = zip(*found, strict=True)
    return Tradeoff(sum(floors), [], [], rankings, combinations)


def _worker_relays(
    problem: MixingProblem, q: int, rows: np.ndarray, own: np.ndarray, most: int
) -> tuple[Ranking, np.ndarray, float]:
    """The most valuable relays to a worker, what they combine, (g, n), and the error that they leave."""
    n = problem.source_owner.size
    root = metric_root(problem.metric[np.ix_(rows, rows)])
    # The metric has no root where no output sees the rows.
    if not min(len(root), most) or own.all():
        return NOTHING, np.empty((0, n)), 0.0
    R = root @ problem.moments.R[rows]
    chosen = _Chosen(problem, q, R, own, most)
    while len(chosen.savings) < most and chosen.extend(most):
        pass
    floor = max(float(chosen.lacking - sum(chosen.savings)), 0.0)
    costs = problem.ghost_costs[chosen.senders, q]
    ranking = ranked(np.arange(len(chosen.savings)), np.array(chosen.savings), costs)
    return ranking, np.array(chosen.combinations).reshape(-1, n), floor


class _Chosen:
    """The relays that a worker has been given so far, and what they leave unexplained.

    Attributes:
        senders, combinations, savings: of the relays, best first.
        lacking: error without any relay, above the unrestricted optimum.
    """

    def __init__(self, problem: MixingProblem, q: int, R: np.ndarray, own: np.ndarray, most: int) -> None:
        """Begins with none.

        Args:
            problem: the mixing.
            q: the worker.
            R: of its rows, in the metric's root, (r, n).
            own: the neurons that it has, bool (n,).
            most: relays that it may be given.
        """
        H, self._taps = problem.moments.H, problem.taps
        self._residual = Residual(H, R, np.flatnonzero(problem.columns(own)), most * self._taps)
        basis, explained = self._residual.basis, self._residual.explained
        self.senders: list[int] = []
        self.combinations: list[np.ndarray] = []
        self.savings: list[float] = []
        self.lacking = float(np.vdot(R, problem.moments.solve(R)) - np.vdot(explained, explained))
        self._costs = problem.ghost_costs[:, q]
        masks = {p: (problem.source_owner == p) & ~own for p in range(problem.workers)}
        self._senders = {p: _Sender(problem, mask, basis) for p, mask in masks.items() if mask.any()}

    def extend(self, most: int) -> bool:
        """Choose some more relays, at most ``most`` in all; says if there were any worth it."""
        batch = min(-(-most // PANEL_FRACTION), most - len(self.savings))
        candidates = [self._candidates(p, 2 * batch) for p in self._senders]
        C, savings = (np.concatenate(parts) for parts in zip(*candidates, strict=True))
        senders = np.repeat([*self._senders], [len(of_sender) for _, of_sender in candidates])
        panel = np.argsort(-savings / self._costs[senders], kind="stable")[: 2 * batch]
        self._choose(C[panel], senders[panel], min(batch, panel.size))
        return bool(panel.size)

    def _candidates(self, p: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The best relays of p alone: what they combine, (c, n), and about the error avoided, (c,)."""
        return self._senders[p].directions(self._residual.correlation, count, LEAST * self.lacking)

    def _choose(self, C: np.ndarray, senders: np.ndarray, count: int) -> None:
        """Choose ``count`` of the candidates, one at a time, each the one that avoids most for its cost."""
        if not count:
            return
        combined = columns_of(C, self._taps)
        basis, products = self._residual.basis, self._residual.correlation @ combined.T
        CH, along = combined @ self._residual.H, combined @ basis.T
        gram = CH @ combined.T - along @ along.T
        order, savings = take(gram, products.T @ products, self._costs[senders], count, np.argmax)
        S = column_numbers(order, self._taps)
        seen = CH[S] - along[S] @ basis
        z = self._residual.add(gram[np.ix_(S, S)], seen, products[:, S])
        for sender in self._senders.values():
            sender.explain(z)
        self.senders += senders[order].tolist()
        self.combinations += [*C[order]]
        self.savings += savings.tolist()


class _Sender:
    """What the neurons of a worker could still tell, given what the receiver has.

    Args:
        problem: the mixing.
        mask: the neurons, bool (n,), g of them.
        basis: of what the receiver has, (columns, n k).
    """

    def __init__(self, problem: MixingProblem, mask: np.ndarray, basis: np.ndarray) -> None:
        H, k = problem.moments.H, problem.taps
        self._mask, self._taps, self._columns = mask, k, np.flatnonzero(problem.columns(mask))
        T = self._columns
        self._covariance = H[np.ix_(T, T)] - basis[:, T].T @ basis[:, T]
        self._hints = HINT * np.diag(H)[T].reshape(-1, k).mean(axis=1)
        # Between the entries of a kernel, on average 1; the factor of a single one is exactly that.
        L, blocks = self._between_neurons(), self._covariance.reshape(-1, k, mask.sum(), k)
        entries = np.einsum("ij,itju->tu", cho_solve((L, True), np.eye(len(L))), blocks)
        self._entries = cholesky(entries / (np.trace(entries) / k), lower=True)

    def _between_neurons(self) -> np.ndarray:
        """Cholesky factor of the covariance between neurons, a mean over the entries of a kernel, (g, g)."""
        k, g = self._taps, len(self._hints)
        covariance = np.einsum("itjt->ij", self._covariance.reshape(g, k, g, k)) / k
        return cholesky(covariance + np.diag(self._hints), lower=True)

    def directions(self, correlation: np.ndarray, count: int, least: float) -> tuple[np.ndarray, np.ndarray]:
        """The best combinations, (c, n), and about the error that each avoids, (c,); c <= ``count``.

        Args:
            correlation: of the rows with every column, beyond what the receiver has, (r, n k).
            count: at most so many.
            least: those that avoid no more are left out.
        """
        L, k, r = self._between_neurons(), self._taps, len(correlation)
        by_entry = solve_triangular(self._entries, correlation[:, self._columns].reshape(-1, k).T, lower=True)
        by_neuron = by_entry.T.reshape(r, -1, k).transpose(1, 0, 2).reshape(-1, r * k)
        whitened = solve_triangular(L, by_neuron, lower=True)
        directions, roots, _ = np.linalg.svd(whitened, full_matrices=False)
        useful = roots[:count] ** 2 > least
        directions = directions[:, :count][:, useful]
        C = np.zeros((directions.shape[1], len(self._mask)))
        C[:, self._mask] = solve_triangular(L, directions, lower=True, trans="T").T
        return C, roots[:count][useful] ** 2

    def explain(self, z: np.ndarray) -> None:
        """Take in what the receiver is given, orthonormal and seen from every column, (c, n k)."""
        z = z[:, self._columns]
        self._covariance = self._covariance - z.T @ z
