"""Partial-sum form: sums travel, and each row ranks the workers that compute a part of it (step 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.tradeoff import NOTHING, Ranking, Tradeoff, ranked


def sum_tradeoff(problem: MixingProblem, owner: np.ndarray) -> Tradeoff:
    """Rank, for each row, the other workers by the error that their sum avoids; collective."""
    return Tradeoff(0.0, [], row_sums(problem, owner, problem.own()), rank=sum_tradeoff)


def row_sums(
    problem: MixingProblem, owner: np.ndarray, supports: np.ndarray, price: float = 0.0
) -> list[Ranking]:
    """Rank, for each row, the workers whose partial sum it lacks; collective.

    Args:
        problem: the mixing.
        owner: of its rows, (m,).
        supports: the neurons that each worker has anyhow, bool (P, n).
        price: rows for which all sums together are not worth that much are left without.
    """
    by_worker = [np.flatnonzero(owner == q) for q in range(problem.workers)]
    worker_rankings = problem.team.map(
        lambda q: _worker_sums(problem, q, by_worker[q], supports[q], price) if by_worker[q].size else [],
        range(problem.workers),
    )
    rankings: list[Ranking] = [NOTHING] * owner.size
    for rows, row_rankings in zip(by_worker, worker_rankings, strict=True):
        for i, ranking in zip(rows, row_rankings, strict=True):
            rankings[i] = ranking
    return rankings


def _worker_sums(
    problem: MixingProblem, q: int, rows: np.ndarray, support: np.ndarray, price: float
) -> Sequence[Ranking]:
    """``row_sums`` of the rows of worker ``q``.

    Within a row the sum of every other worker, over its neurons outside the support and with the
    unrestricted weights, is one input, seen beyond what the support explains; a row's choice is then an
    elimination of single inputs with a P × P Gram matrix.
    """
    moments = problem.moments
    H, S = moments.H, np.flatnonzero(problem.columns(support))
    R, target = moments.R[rows], moments.best[rows]
    if problem.links is not None:
        target = np.where(problem.columns(problem.links[rows]), target, 0)
    L = cholesky(H[np.ix_(S, S)], lower=True)
    Z = solve_triangular(L, H[S], lower=True)
    explained = solve_triangular(L, R[:, S].T, lower=True)
    correlation = R - explained.T @ Z
    masks = {p: (problem.source_owner == p) & ~support for p in range(problem.workers) if p != q}
    contributors = [(p, np.flatnonzero(problem.columns(mask))) for p, mask in masks.items() if mask.any()]
    if not contributors:
        return [NOTHING] * len(rows)
    # What H leaves of each worker's sum beyond the support, seen from every input.
    contributions = [target[:, T] @ H[T] - (target[:, T] @ Z[:, T].T) @ Z for _, T in contributors]
    gram, products = _contribution_grams(contributions, correlation, target, [T for _, T in contributors])
    workers = np.array([p for p, _ in contributors], np.int64)
    weight = np.diag(problem.metric)[rows]
    costs = problem.sum_costs[workers, q]
    # All sums of a row avoid at most what its whole error beyond the support is.
    largest_savings = weight * (
        np.einsum("ij,ij->i", R, target) - np.einsum("ij,ij->j", explained, explained)
    )
    worthwhile = np.flatnonzero(largest_savings > price * costs.min())
    rankings = [NOTHING] * len(rows)
    ranked_rows = _row_rankings(gram[worthwhile], products[worthwhile], weight[worthwhile], workers, costs)
    for i, ranking in zip(worthwhile, ranked_rows, strict=True):
        rankings[i] = ranking
    return rankings


def _contribution_grams(
    contributions: list[np.ndarray], correlation: np.ndarray, target: np.ndarray, columns: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Gram matrix of the contributions to each row, and their products with the row.

    Args:
        contributions: of each contributor, seen from every input, (rows, n k).
        correlation: of the rows with every input beyond the support, (rows, n k).
        target: weights that the contributors use, (rows, n k).
        columns: of each contributor.

    Returns:
        (rows, contributors, contributors) and (rows, contributors).
    """
    gram = np.empty((len(target), len(columns), len(columns)))
    products = np.empty((len(target), len(columns)))
    for b, T in enumerate(columns):
        products[:, b] = np.einsum("ij,ij->i", correlation[:, T], target[:, T])
        for a, contribution in enumerate(contributions):
            gram[:, a, b] = np.einsum("ij,ij->i", contribution[:, T], target[:, T])
    return gram, products


def _row_rankings(
    gram: np.ndarray, products: np.ndarray, weight: np.ndarray, workers: np.ndarray, costs: np.ndarray
) -> list[Ranking]:
    """The contributors of rows, of metric ``weight``, from the Gram matrices of their sums."""
    active = np.einsum("iaa->ia", gram) > 0
    orders, avoided = _eliminate_rows(gram, np.where(active, products, 0), active, costs)
    rankings = []
    for row, order in enumerate(orders):
        kept = active[row, order]
        contributors = order[kept][::-1]
        savings = weight[row] * avoided[row, kept][::-1]
        rankings.append(ranked(workers[contributors], savings, costs[contributors]))
    return rankings


def _eliminate_rows(
    gram: np.ndarray, products: np.ndarray, active: np.ndarray, costs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``eliminate`` of single inputs, one at a time, for many rows at once.

    Args:
        gram: of the inputs of every row, (rows, c, c).
        products: of the rows with them, (rows, c); 0 for those that are not active.
        active: others are as good as removed, bool (rows, c).
        costs: of each, (c,), > 0.

    Returns:
        the inputs in the order of removal, and the rise of the error at each removal, (rows, c) both.
    """
    rows, c = products.shape
    every, diagonal = np.arange(rows), np.arange(c)
    gram = np.where(active[:, :, None] & active[:, None, :], gram, 0)
    # Sums of few neurons may depend on each other; a hint of ridge keeps the matrix positive definite.
    gram[:, diagonal, diagonal] = np.where(active, gram[:, diagonal, diagonal] * (1 + 1e-9), 1)
    Hinv = np.linalg.inv(gram)
    V = (products[:, None] @ Hinv)[:, 0]
    remaining = np.ones((rows, c), bool)
    orders, rises = np.empty((rows, c), np.int64), np.empty((rows, c))
    for step in range(c):
        rise = np.divide(V**2, Hinv[:, diagonal, diagonal], out=np.full((rows, c), np.inf), where=remaining)
        j = (rise / costs).argmin(axis=1)
        orders[:, step], rises[:, step], remaining[every, j] = j, rise[every, j], False
        factor = Hinv[every, j] / Hinv[every, j, j][:, None]
        V = V - V[every, j][:, None] * factor
        Hinv = Hinv - factor[:, :, None] * Hinv[every, j][:, None]
    return orders, rises
