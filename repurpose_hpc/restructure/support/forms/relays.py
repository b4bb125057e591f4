"""Relay form: combinations of neurons travel, and each worker ranks those it could be sent (step 3.2).

A *relay* is a linear neuron on the worker p whose neurons it combines.  For worker q the best relay of p,
given what q has already, is the leading direction of what p's neurons contribute to q's rows, in the metric
of the output and whitened by the covariance that is left (reduced-rank regression).  A ghost is a relay of
one neuron, and a partial sum one that a single row reads: neither avoids more error for its value.

Where a neuron has k columns, a relay has k as well, each a combination of the same neurons.  Candidates are
found as if the covariance were one between neurons times one between the entries of a kernel, and judged by
what it is.  They and single neurons are refined in turn with the kernels that read them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.linalg import cho_solve, cholesky, eigh, solve_triangular
from scipy.sparse import csr_array

from repurpose_hpc.model.weights import column_numbers
from repurpose_hpc.plan.relays import columns_of
from repurpose_hpc.restructure.support.elimination import (
    PANEL_FRACTION,
    Residual,
    block_changes,
    block_grams,
    diagonal_blocks,
    take,
)
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.tradeoff import NOTHING, Ranking, Tradeoff, ranked

# At most one relay for so many that are chosen already is taken from one panel: the first, which are most
# likely to be paid for, are chosen one by one.
BATCH_FRACTION = 4
# Combinations of the rows are left out in which no relay avoids more than this share of the least worthwhile.
UNSEEN = 0.25
# Relative to the variances: keeps covariances positive definite in the directions of chosen relays.
HINT = 1e-9
# Times that candidates of several columns are improved, for the kernels that read them best.
REFINEMENTS = 2
# Candidates of which less than this share is new are left out: refined ones may be alike.
DISTINCT = 0.1
# Of the error without relays: what avoids less is rounding.
LEAST = 1e-10
# Of all eigenvectors: to compute so many of the largest takes as long as to compute all.
FEW = 0.125


def relay_tradeoff(problem: MixingProblem, owner: np.ndarray) -> Tradeoff:
    """Rank the relays that each worker could be sent by the error that they avoid; collective.

    Args:
        problem: the mixing.
        owner: of its rows, (m,).
    """
    own, limits = problem.own(), problem.most_ghosts(np.bincount(owner, minlength=problem.workers))

    def of_worker(q: int) -> tuple[Ranking, csr_array, float]:
        return _worker_relays(problem, q, np.flatnonzero(owner == q), own[q], int(limits[q]))

    found = problem.team.map(of_worker, range(problem.workers))
    rankings, combinations, floors = zip(*found, strict=True)
    return Tradeoff(sum(floors), [], [], rankings, combinations, relay_tradeoff)


def unfolded_relay_tradeoff(problem: MixingProblem, owner: np.ndarray) -> Tradeoff:
    """The same of relays behind the window of the mixing; collective."""
    return replace(relay_tradeoff(problem.unfolded(), owner), rank=unfolded_relay_tradeoff)


def _worker_relays(
    problem: MixingProblem, q: int, rows: np.ndarray, own: np.ndarray, most: int
) -> tuple[Ranking, csr_array, float]:
    """The most valuable relays to a worker, what they combine, (g, n), and the error that they leave."""
    n = problem.source_owner.size
    root = problem.metric_root(rows)
    # The metric has no root where no output sees the rows.
    if not min(len(root), most) or own.all():
        return NOTHING, csr_array((0, n)), 0.0
    R = root @ problem.moments.R[rows]
    chosen = _Chosen(problem, q, R, R @ (root @ problem.moments.best[rows]).T, own, most)
    while len(chosen.savings) < most and chosen.extend(most):
        pass
    floor = max(float(chosen.lacking - sum(chosen.savings)), 0.0)
    costs = problem.ghost_costs[chosen.senders, q]
    ranking = ranked(np.arange(len(chosen.savings)), np.array(chosen.savings), costs)
    return ranking, chosen.combined(), floor


class _Chosen:
    """The relays that a worker has been given so far, and what they leave unexplained.

    Attributes:
        senders, combinations, savings: of the relays, best first; each combines the neurons of its sender.
        lacking: error without any relay, above the unrestricted optimum.
    """

    def __init__(
        self, problem: MixingProblem, q: int, R: np.ndarray, whole: np.ndarray, own: np.ndarray, most: int
    ) -> None:
        """Begins with none.

        Args:
            problem: the mixing.
            q: the worker.
            R: of its rows, in the metric's root, (r, n).
            whole: the error that all inputs avoid, between any two of these, (r, r).
            own: the neurons that it has, bool (n,).
            most: relays that it may be given.
        """
        H, self._taps = problem.moments.H, problem.taps
        self._residual = Residual(H, R, np.flatnonzero(problem.columns(own)), most * self._taps)
        self.senders: list[int] = []
        self.combinations: list[np.ndarray] = []
        self.savings: list[float] = []
        self._costs = problem.ghost_costs[:, q]
        explained = self._residual.explained
        lacking, directions = np.linalg.eigh(whole - explained.T @ explained)
        self.lacking = float(lacking.sum())
        self._least = np.maximum(LEAST * self.lacking, problem.least_price * self._costs)
        # No column of a relay avoids more than what is lacking in one direction.
        most_avoided = self._taps * lacking
        seen = most_avoided > UNSEEN * self._least[self._costs > 0].min(initial=np.inf)
        self._residual.combine(directions[:, seen].T)
        masks = {p: (problem.source_owner == p) & ~own for p in range(problem.workers)}
        self._senders = {p: _Sender(problem, mask, self._residual) for p, mask in masks.items() if mask.any()}
        # What the best relay of each sender avoided for its cost, when it was last looked at.
        self._bounds = {
            p: most_avoided[-1] / self._costs[p] if most_avoided[-1] > self._least[p] else 0.0
            for p in self._senders
        }

    def combined(self) -> csr_array:
        """What the relays combine of all neurons, (g, n)."""
        neurons = [self._senders[p].neurons for p in self.senders]
        starts = np.cumsum([0, *map(len, neurons)])
        values, places = (np.concatenate([np.empty(0), *parts]) for parts in (self.combinations, neurons))
        shape = len(neurons), len(self._residual.H) // self._taps
        return csr_array((values, places.astype(np.int32), starts), shape=shape)

    def extend(self, most: int) -> bool:
        """Choose some more relays, at most ``most`` in all; says if there were any worth it."""
        chosen = len(self.savings)
        batch = min(max(1, chosen // BATCH_FRACTION), -(-most // PANEL_FRACTION), most - chosen)
        panel = self._panel(2 * batch - 1)
        if panel:
            self._choose(panel, batch)
        return bool(panel)

    def _panel(self, count: int) -> dict[int, np.ndarray]:
        """The best ``count`` relays of all senders: what they combine of each one's neurons, (c, g).

        What the best relay of a sender avoids hardly ever rises when others are chosen.  So a sender is not
        looked at while what it was cannot be among the best.
        """
        found: dict[int, np.ndarray] = {}
        senders, places, worth = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
        for p in sorted(self._bounds, key=self._bounds.__getitem__, reverse=True):
            if self._bounds[p] <= (worth[-1] if len(worth) == count else 0):
                break
            found[p], savings = self._senders[p].candidates(count, self._least[p])
            savings = savings / self._costs[p]
            self._bounds[p] = savings.max(initial=0)
            senders = np.concatenate([senders, np.full(len(savings), p)])
            places, worth = (
                np.concatenate([places, np.arange(len(savings))]),
                np.concatenate([worth, savings]),
            )
            best = np.argsort(-worth, kind="stable")[:count]
            senders, places, worth = senders[best], places[best], worth[best]
        return {p: found[p][places[senders == p]] for p in np.unique(senders).tolist()}

    def _choose(self, panel: dict[int, np.ndarray], count: int) -> None:
        """Choose ``count`` of the candidates, one at a time, each the one that avoids most for its cost."""
        H, basis, correlation = self._residual.H, self._residual.basis, self._residual.correlation
        # A relay combines neurons of one worker: the products are those with its columns only.
        parts = [(self._senders[p].columns, columns_of(C, self._taps)) for p, C in panel.items()]
        CH = np.concatenate([combined @ H[S] for S, combined in parts])
        along = np.concatenate([combined @ basis[:, S].T for S, combined in parts])
        products = np.hstack([correlation[:, S] @ combined.T for S, combined in parts])
        gram = np.hstack([CH[:, S] @ combined.T for S, combined in parts]) - along @ along.T
        senders = np.repeat(list(panel), [len(C) for C in panel.values()])
        combinations = [row for C in panel.values() for row in C]
        count = min(count, len(senders))
        order, savings = take(gram, products.T @ products, self._costs[senders], count, np.argmax)
        S = column_numbers(order, self._taps)
        self._residual.add(gram[np.ix_(S, S)], CH[S] - along[S] @ basis, products[:, S])
        self.senders += senders[order].tolist()
        self.combinations += [combinations[place] for place in order]
        self.savings += savings.tolist()


class _Sender:
    """What the neurons of a worker could still tell, given what the receiver has.

    Args:
        problem: the mixing.
        mask: the neurons, bool (n,), g of them.
        residual: of what the receiver has.

    Attributes:
        neurons, columns: their numbers, (g,) and (g k,).
    """

    def __init__(self, problem: MixingProblem, mask: np.ndarray, residual: Residual) -> None:
        H, k = problem.moments.H, problem.taps
        self._taps, self.neurons, self.columns = (
            k,
            np.flatnonzero(mask),
            np.flatnonzero(problem.columns(mask)),
        )
        self._residual, self._explained = residual, 0
        self._covariance = H[np.ix_(self.columns, self.columns)]
        self._hints = HINT * np.diag(self._covariance)
        self._explain()
        # Between the entries of a kernel, on average 1; the factor of a single one is exactly that.
        L = self._between_neurons()
        blocks = self._covariance.reshape(len(L), k, len(L), k)
        entries = np.einsum("ij,itju->tu", cho_solve((L, True), np.eye(len(L))), blocks)
        self._entries = cholesky(entries / (np.trace(entries) / k), lower=True)

    def _between_neurons(self) -> np.ndarray:
        """Cholesky factor of the covariance between neurons, a mean over the entries of a kernel, (g, g)."""
        covariance = self._hinted
        if self._taps > 1:
            blocks = covariance.reshape(-1, self._taps, len(self.neurons), self._taps)
            covariance = np.einsum("itjt->ij", blocks) / self._taps
        return cholesky(covariance, lower=True, check_finite=False)

    @property
    def _hinted(self) -> np.ndarray:
        """The covariance, positive definite in the directions of chosen relays too, (g k, g k)."""
        hinted = self._covariance.copy()
        hinted[np.diag_indices_from(hinted)] += self._hints
        return hinted

    def candidates(self, count: int, least: float) -> tuple[np.ndarray, np.ndarray]:
        """The best combinations, (c, g), and the error that each avoids, (c,).

        Args:
            count: at most so many.
            least: those that avoid no more are left out.
        """
        self._explain()
        Q = self._residual.correlation[:, self.columns]
        directions, savings = self._directions(Q, count, least)
        if self._taps > 1:
            directions, savings = self._refined(
                np.concatenate([directions, self._singles(Q, count)]), Q, least
            )
            best = np.argsort(-savings, kind="stable")
            best = best[distinct(directions[best] @ self._between_neurons())][:count]
            directions, savings = directions[best], savings[best]
        useful = savings > least
        return directions[useful], savings[useful]

    def _directions(self, Q: np.ndarray, count: int, least: float) -> tuple[np.ndarray, np.ndarray]:
        """Leading directions of Q, (c, g), whitened as if the covariance were a product; what each avoids."""
        L, k, r, by_neuron = self._between_neurons(), self._taps, len(Q), Q.T
        if k > 1:
            by_entry = solve_triangular(self._entries, Q.reshape(-1, k).T, lower=True)
            by_neuron = by_entry.T.reshape(r, -1, k).transpose(1, 0, 2).reshape(-1, r * k)
        whitened = solve_triangular(L, by_neuron, lower=True, check_finite=False)
        directions, savings = leading(whitened, count, least)
        return solve_triangular(L, directions, lower=True, trans="T", check_finite=False).T, savings

    def _singles(self, Q: np.ndarray, count: int) -> np.ndarray:
        """The neurons that avoid most by themselves, as combinations, (c, g)."""
        variances = diagonal_blocks(self._hinted, self._taps)
        savings = block_changes(variances, block_grams(Q, Q, self._taps))
        return np.eye(len(savings))[np.argsort(-savings, kind="stable")[:count]]

    def _refined(self, C: np.ndarray, Q: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
        """Improve combinations, (c, g), that avoid more than ``least``; and the error that each avoids, (c,).

        For their best kernels the best combinations are found, which have other best kernels.
        """
        k, g = self._taps, len(self.neurons)
        kernels, savings = self._kernels(C, Q)
        C, kernels, savings = (of_each[savings > least] for of_each in (C, kernels, savings))
        between = self._hinted.reshape(g, k, g, k).transpose(1, 3, 0, 2).reshape(k * k, g * g)
        for _ in range(REFINEMENTS):
            pull = np.einsum("crt,rit->ci", kernels, Q.reshape(-1, g, k))
            squares = kernels.transpose(0, 2, 1) @ kernels
            gram = (squares.reshape(-1, k * k) @ between).reshape(-1, g, g)
            C = np.linalg.solve(gram, pull[:, :, None])[:, :, 0]
            kernels, savings = self._kernels(C, Q)
        return C, savings

    def _kernels(self, C: np.ndarray, Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best kernels that read each combination alone, (c, r, k), and the error avoided, (c,)."""
        combined = columns_of(C, self._taps)
        gram = diagonal_blocks(combined @ self._hinted @ combined.T, self._taps)
        products = (Q @ combined.T).reshape(len(Q), len(C), self._taps).transpose(1, 0, 2)
        kernels = np.linalg.solve(gram, products.transpose(0, 2, 1)).transpose(0, 2, 1)
        return kernels, np.einsum("crt,crt->c", kernels, products)

    def _explain(self) -> None:
        """Take in what the receiver was given since the last time."""
        z = self._residual.basis[self._explained :, self.columns]
        self._covariance = self._covariance - z.T @ z
        self._explained += len(z)


def leading(matrix: np.ndarray, count: int, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Left singular vectors, (g, c), and squares of the singular values, (c,), the largest first.

    By eigenvalues of the smaller Gram matrix, in a fraction of the time that all singular values take.

    Args:
        matrix: (g, r).
        count: at most so many.
        least: >= 0; those of smaller squares are left out.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    gram = matrix.T @ matrix if is_tall else matrix @ matrix.T
    size = len(gram)
    if count < FEW * size:
        squares, vectors = eigh(gram, subset_by_index=(size - count, size - 1))
    else:
        squares, vectors = np.linalg.eigh(gram)
    kept = np.flatnonzero(squares > least)[: -count - 1 : -1]
    squares, vectors = squares[kept], vectors[:, kept]
    return (matrix @ vectors / np.sqrt(squares) if is_tall else vectors), squares


def distinct(rows: np.ndarray) -> list[int]:
    """The rows, (c, g), of which DISTINCT is not in the span of earlier ones among them."""
    kept: list[int] = []
    basis = np.empty((0, rows.shape[1]))
    for number, row in enumerate(rows):
        beyond = row - (basis @ row) @ basis
        if beyond @ beyond > DISTINCT * (row @ row):
            kept.append(number)
            basis = np.vstack([basis, beyond / np.linalg.norm(beyond)])
    return kept
