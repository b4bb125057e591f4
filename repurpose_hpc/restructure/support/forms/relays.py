"""Relay form: combinations of neurons travel, and each worker ranks those it could be sent (step 3.2).

A *relay* is a linear neuron on the worker p whose neurons it combines.  For worker q the best relay of p,
given what q has already, is the leading direction of what p's neurons contribute to q's rows, in the metric
of the output and whitened by the covariance that is left (reduced-rank regression).  A ghost is a relay of
one neuron, and a partial sum one that a single row reads: neither avoids more error for its value.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from repurpose_hpc.restructure.support.elimination import PANEL_FRACTION, Residual, metric_root, take
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.tradeoff import NOTHING, Ranking, Tradeoff, ranked

# Relative to the variances: keeps covariances positive definite in the directions of chosen relays.
HINT = 1e-9
# Of the error without relays: what avoids less is rounding.
LEAST = 1e-10


def relay_tradeoff(problem: MixingProblem, owner: np.ndarray) -> Tradeoff:
    """Rank the relays that each worker could be sent by the error that they avoid; collective.

    Args:
        problem: the mixing, between vectors.
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
    n = len(problem.moments.H)
    if not min(rows.size, most) or own.all():
        return NOTHING, np.empty((0, n)), 0.0
    R = metric_root(problem.metric[np.ix_(rows, rows)]) @ problem.moments.R[rows]
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
        H = problem.moments.H
        self._residual = Residual(H, R, np.flatnonzero(own), most)
        basis, explained = self._residual.basis, self._residual.explained
        self.senders: list[int] = []
        self.combinations: list[np.ndarray] = []
        self.savings: list[float] = []
        self.lacking = float(np.vdot(R, problem.moments.solve(R)) - np.vdot(explained, explained))
        self._costs = problem.ghost_costs[:, q]
        masks = {p: (problem.source_owner == p) & ~own for p in range(problem.workers)}
        self._columns = {p: np.flatnonzero(mask) for p, mask in masks.items() if mask.any()}
        self._covariances = {
            p: H[np.ix_(T, T)] - basis[:, T].T @ basis[:, T] for p, T in self._columns.items()
        }
        self._hints = {p: HINT * np.diag(H)[T] for p, T in self._columns.items()}

    def extend(self, most: int) -> bool:
        """Choose some more relays, at most ``most`` in all; says if there were any worth it."""
        batch = min(-(-most // PANEL_FRACTION), most - len(self.savings))
        candidates = [self._candidates(p, 2 * batch) for p in self._columns]
        C, savings = (np.concatenate(parts) for parts in zip(*candidates, strict=True))
        senders = np.repeat([*self._columns], [len(of_sender) for _, of_sender in candidates])
        panel = np.argsort(-savings / self._costs[senders], kind="stable")[: 2 * batch]
        self._choose(C[panel], senders[panel], min(batch, panel.size))
        return bool(panel.size)

    def _candidates(self, p: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The best relays of p alone: what they combine, (c, n), and the error avoided, (c,)."""
        T = self._columns[p]
        L = cholesky(self._covariances[p] + np.diag(self._hints[p]), lower=True)
        whitened = solve_triangular(L, self._residual.correlation[:, T].T, lower=True)
        directions, roots, _ = np.linalg.svd(whitened, full_matrices=False)
        useful = roots[:count] ** 2 > LEAST * self.lacking
        directions = directions[:, :count][:, useful]
        C = np.zeros((directions.shape[1], len(self._residual.H)))
        C[:, T] = solve_triangular(L, directions, lower=True, trans="T").T
        return C, roots[:count][useful] ** 2

    def _choose(self, C: np.ndarray, senders: np.ndarray, count: int) -> None:
        """Choose ``count`` of the candidates, one at a time, each the one that avoids most for its cost."""
        if not count:
            return
        basis, products = self._residual.basis, self._residual.correlation @ C.T
        CH, along = C @ self._residual.H, C @ basis.T
        gram = CH @ C.T - along @ along.T
        order, savings = take(gram, products.T @ products, self._costs[senders], count, np.argmax)
        seen = CH[order] - along[order] @ basis
        z = self._residual.add(gram[np.ix_(order, order)], seen, products[:, order])
        for p, T in self._columns.items():
            self._covariances[p] = self._covariances[p] - z[:, T].T @ z[:, T]
        self.senders += senders[order].tolist()
        self.combinations += [*C[order]]
        self.savings += savings.tolist()
