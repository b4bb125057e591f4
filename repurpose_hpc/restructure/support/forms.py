"""The forms of a mixing as trade-offs, and the masks they lead to.

*Ghost form*: inputs travel.  *Partial-sum form*: sums travel.  *Mixed*: neurons that many rows of a
worker need are sent, and rows that still lack much get sums as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular

from repurpose_hpc.plan.plan import EVERYBODY, MixingPlan, mixing_plan
from repurpose_hpc.restructure.calibration.moments import Moments
from repurpose_hpc.restructure.support.elimination import (
    column_numbers,
    columns,
    eliminate,
    metric_root,
    select_candidates,
)
from repurpose_hpc.restructure.support.tradeoff import NOTHING, Tradeoff, Unit, ranked
from repurpose_hpc.restructure.team import Team


@dataclass(frozen=True, eq=False)
class Problem:
    """One mixing, ready to be assigned and eliminated.  Masks and owners are of neurons, not of columns.

    Attributes:
        moments: its least-squares problem, in which errors are judged.
        metric: M, (m, m).
        source_owner: owners of the source space, (n,) int32.
        ghost_costs: of sending one source neuron from worker p to q, (P, P).
        sum_costs: of sending one partial sum from p to q, (P, P).
        most: the most ghosts that each worker may be given, from its number of rows: int -> (P,).
        only_ghosts: whether partial sums are out of the question.
        team: shares the work.
        taps: k, columns of each source neuron in ``moments``.
        received: the ghosts that every worker is sent anyhow, for another mixing, bool (P, n); None: none.
        links: which rows may depend on which neurons at all, bool (m, n); None: all on all.  Others are those
            of other groups of a grouped convolution, or holes of a sparse layer, which are not filled.
    """

    moments: Moments
    metric: np.ndarray
    source_owner: np.ndarray
    ghost_costs: np.ndarray
    sum_costs: np.ndarray
    most: Callable[[np.ndarray], np.ndarray]
    only_ghosts: bool
    team: Team
    taps: int = 1
    received: np.ndarray | None = None
    links: np.ndarray | None = None

    @property
    def workers(self) -> int:
        """P."""
        return len(self.ghost_costs)

    def own(self) -> np.ndarray:
        """What each worker has without asking, bool (P, n)."""
        workers = np.arange(self.workers)[:, None]
        own = (self.source_owner == workers) | (self.source_owner == EVERYBODY)
        return own if self.received is None else own | self.received

    def linked(self, rows: np.ndarray) -> np.ndarray:
        """The neurons on which any of ``rows`` may depend, bool (n,)."""
        if self.links is None:
            return np.ones(self.source_owner.size, bool)
        return self.links[rows].any(axis=0)

    def columns(self, mask: np.ndarray) -> np.ndarray:
        """A mask of source neurons, bool (..., n), as one of columns of ``moments``, (..., n k)."""
        return columns(mask, self.taps)


def tradeoffs(problem: Problem, owner: np.ndarray) -> list[Tradeoff]:
    """The pure forms in which the mixing may run when its rows belong to ``owner``, (m,); collective."""
    # With nothing pruned, all n neurons are sent as ghosts, and all m as partial sums: the second form is for
    # narrow mixings.  Inputs that everybody has leave no sums to send.
    ghosts = problem.source_owner.size * problem.ghost_costs.sum()
    if owner.size * problem.sum_costs.sum() < ghosts and not problem.only_ghosts:
        return [ghost_tradeoff(problem, owner), partial_tradeoff(problem, owner)]
    return [ghost_tradeoff(problem, owner)]


def mask_of(problem: Problem, tradeoff: Tradeoff, owner: np.ndarray, price: float) -> MixingPlan:
    """The masks of a form at ``price``."""
    ghosts, sums = problem.own(), np.zeros((problem.workers, owner.size), bool)
    for q, unit in enumerate(tradeoff.ghosts):
        ghosts[q, unit.kept(price)] = True
    for i, unit in enumerate(tradeoff.sums):
        sums[unit.kept(price), i] = True
    return mixing_plan(ghosts, sums, problem.source_owner, owner)


def ghost_tradeoff(problem: Problem, owner: np.ndarray) -> Tradeoff:
    """Inputs travel: for each worker, its ghosts by what they avoid; collective."""
    own, most = problem.own(), problem.most(np.bincount(owner, minlength=problem.workers))

    def worker(q: int) -> tuple[Unit, float]:
        rows = np.flatnonzero(owner == q)
        count = min(int(most[q]), int((problem.linked(rows) & ~own[q]).sum()))
        return _worker_ghosts(problem, q, rows, own[q], count) if rows.size and count > 0 else (NOTHING, 0.0)

    units = problem.team.map(worker, range(problem.workers))
    return Tradeoff(sum(missing for _, missing in units), [unit for unit, _ in units], [])


def _worker_ghosts(
    problem: Problem, q: int, rows: np.ndarray, own: np.ndarray, count: int
) -> tuple[Unit, float]:
    """The ``count`` most valuable ghosts of worker ``q``, and the error that all the others would avoid."""
    H, taps = problem.moments.H, problem.taps
    L = metric_root(problem.metric[np.ix_(rows, rows)])
    R = L @ problem.moments.R[rows]
    costs = np.ones(len(own))
    costs[~own] = problem.ghost_costs[problem.source_owner[~own], q]
    linked = problem.linked(rows)
    own, candidates = own & linked, np.flatnonzero(linked & ~own)
    if count < len(candidates):
        S = column_numbers(np.flatnonzero(linked), taps)
        chosen = select_candidates(H[np.ix_(S, S)], R[:, S], own[linked], costs[linked], count, taps)
        candidates = np.flatnonzero(linked)[chosen]
    neurons = np.concatenate([np.flatnonzero(own), candidates])
    S = column_numbers(neurons, taps)
    H_SS, R_S = H[np.ix_(S, S)], R[:, S]
    removed, avoided = eliminate(H_SS, R_S, np.arange(len(neurons)) < own.sum(), costs[neurons], taps)
    missing = np.vdot(R, problem.moments.solve(R)) - np.vdot(R_S, cho_solve(cho_factor(H_SS), R_S.T).T)
    ghosts = neurons[removed[::-1]]
    return ranked(ghosts, avoided[::-1], costs[ghosts]), max(float(missing), 0.0)


def partial_tradeoff(problem: Problem, owner: np.ndarray) -> Tradeoff:
    """Partial sums travel: for each row, the other workers by what their sum avoids; collective."""
    return Tradeoff(0.0, [], row_sums(problem, owner, problem.own()))


def mixed_tradeoff(problem: Problem, owner: np.ndarray, ghosts: Tradeoff, price: float) -> Tradeoff:
    """Ghost form with partial sums for rows to which they are still worth more than ``price``; collective.

    Args:
        problem: the mixing.
        owner: of its rows, (m,).
        ghosts: its ghost form.
        price: λ, for which the result holds.

    Returns:
        a form whose objective at ``price`` is at most that of ``ghosts``.
    """
    supports = problem.own() | mask_of(problem, ghosts, owner, price).ghosts
    sums = row_sums(problem, owner, supports, price)
    worthwhile = [unit.first(unit.kept(price).size) for unit in sums]
    saved = sum(float(unit.savings @ unit.costs) for unit in worthwhile)
    return Tradeoff(ghosts.floor - saved, ghosts.ghosts, worthwhile)


def row_sums(problem: Problem, owner: np.ndarray, supports: np.ndarray, price: float = 0.0) -> list[Unit]:
    """For each row, the workers whose partial sum it lacks; collective.

    Args:
        problem: the mixing.
        owner: of its rows, (m,).
        supports: what each worker has anyhow, bool (P, n).
        price: rows for which all sums together are not worth that much are left without.
    """
    by_worker = [np.flatnonzero(owner == q) for q in range(problem.workers)]
    found = problem.team.map(
        lambda q: _worker_sums(problem, q, by_worker[q], supports[q], price) if by_worker[q].size else [],
        range(problem.workers),
    )
    units: list[Unit] = [NOTHING] * owner.size
    for rows, row_units in zip(by_worker, found, strict=True):
        for i, unit in zip(rows, row_units, strict=True):
            units[i] = unit
    return units


def _worker_sums(
    problem: Problem, q: int, rows: np.ndarray, support: np.ndarray, price: float
) -> Sequence[Unit]:
    """``row_sums`` of the rows of worker ``q``.

    Within a row the sum of every other worker, over its neurons outside the support and with the
    unrestricted weights, is one input, seen beyond what the support explains; a row's choice is then an
    elimination of single inputs with a P × P Gram matrix.
    """
    moments = problem.moments
    H, S = moments.H, np.flatnonzero(problem.columns(support))
    R, target = moments.R[rows], moments.solve(moments.R[rows])
    if problem.links is not None:
        target = np.where(problem.columns(problem.links[rows]), target, 0)
    L = cholesky(H[np.ix_(S, S)], lower=True)
    Z = solve_triangular(L, H[S], lower=True)
    explained = solve_triangular(L, R[:, S].T, lower=True)
    correlation = R - explained.T @ Z
    beside = {p: (problem.source_owner == p) & ~support for p in range(problem.workers) if p != q}
    others = [(p, np.flatnonzero(problem.columns(mask))) for p, mask in beside.items() if mask.any()]
    if not others:
        return [NOTHING] * len(rows)
    # What H leaves of each worker's sum beyond the support, seen from every input.
    beyond = [target[:, T] @ H[T] - (target[:, T] @ Z[:, T].T) @ Z for _, T in others]
    gram = np.empty((len(rows), len(others), len(others)))
    products = np.empty((len(rows), len(others)))
    for b, (_, T) in enumerate(others):
        products[:, b] = np.einsum("ij,ij->i", correlation[:, T], target[:, T])
        for a, seen in enumerate(beyond):
            gram[:, a, b] = np.einsum("ij,ij->i", seen[:, T], target[:, T])
    workers = np.array([p for p, _ in others], np.int64)
    weight = np.diag(problem.metric)[rows]
    costs = problem.sum_costs[workers, q]
    # All sums of a row avoid at most what its whole error beyond the support is.
    most = weight * (np.einsum("ij,ij->i", R, target) - np.einsum("ij,ij->j", explained, explained))
    worthwhile = most > price * costs.min()
    return [
        _row_unit(*row, workers, costs) if worth else NOTHING
        for worth, *row in zip(worthwhile, gram, products, weight, strict=True)
    ]


def _row_unit(
    gram: np.ndarray, products: np.ndarray, weight: float, workers: np.ndarray, costs: np.ndarray
) -> Unit:
    """The contributors of one row, of metric ``weight``, from the Gram matrix of their sums."""
    active = np.flatnonzero(np.diag(gram) > 0)
    if not active.size:
        return NOTHING
    # Sums of few neurons may depend on each other; a hint of ridge keeps the matrix positive definite.
    gram = gram[np.ix_(active, active)]
    gram = gram + 1e-9 * np.diag(np.diag(gram))
    removed, avoided = eliminate(gram, products[None, active], np.zeros(active.size, bool), costs[active])
    order = active[removed[::-1]]
    return ranked(workers[order], weight * avoided[::-1], costs[order])
