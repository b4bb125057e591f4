"""Step 4.1: ℓ0 pruning inside the blocks; fewer weights, for less computation.

A weight of row i goes at the cost of its removal and refitting, M_ii Ŵ_ij² / [H_SS⁻¹]_jj with S the row's
own support (optimal brain surgeon); all rows are refitted between iterations.  One threshold serves all
workers, but none keeps more than its share of the weights, so that the load stays balanced.
"""

from __future__ import annotations

import numpy as np

from repurpose_hpc.restructure.calibration.moments import Moments
from repurpose_hpc.restructure.context import CutContext
from repurpose_hpc.restructure.decisions import Decisions
from repurpose_hpc.restructure.support.elimination import columns, row_groups
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.reserve import BudgetTooSmall
from repurpose_hpc.restructure.team import Team

# Each iteration leaves at least this share of the weights of the one before.
LEAST_KEPT = 0.7


def weight_shares(context: CutContext) -> list[int]:
    """Number of weights that each mixing would keep under the density alone; empty without a density."""
    if context.options.density == 1:
        return []
    statistics = context.statistics
    scores = [weight_scores(statistics.moments[m.name], statistics.metrics[m.name]) for m in context.mixings]
    return spread_weights(scores, int(context.options.density * context.network.weight_count))


def thin_out(
    context: CutContext, decisions: Decisions, number: int, problem: MixingProblem, shares: list[int]
) -> np.ndarray:
    """Mask of the weights that mixing ``number`` keeps; collective.

    Args:
        context, decisions: of the run; the mixing is planned.
        number: of the mixing.
        problem: it.
        shares: of the mixings, as ``weight_shares`` gives them.

    Returns:
        bool, (m, n), or (m, n k) where weights are limited.
    """
    mixing, plan = context.mixings[number], context.plan(decisions)
    mask = plan.allowed(context.network, mixing) & mixing.links
    if context.options.density == 1:
        return mask
    total = max(decisions.weights_left, 0) * shares[number] / max(sum(shares[number:]), 1)
    relays = decisions.relays.get(mixing.name)
    if relays is not None:
        owner = context.owner(decisions, mixing.target)
        reading = np.count_nonzero(owner[:, None] == relays.receiver) * relays.taps
        taken = np.count_nonzero(relays.combined) + reading
        if taken > decisions.weights_left:
            raise BudgetTooSmall(
                f"density: expected room for the {len(relays)} relays of {mixing.name}, found "
                f"{decisions.weights_left:,.0f} weights left for their {taken:,}; allow more weights, or "
                "leave relays out of the forms"
            )
        total = max(total - taken, 0)
    quota = np.floor(total * context.share(decisions, mixing)).astype(np.int64)
    holder = plan.holders(context.network, mixing)
    return sparsify(problem.moments, problem.metric, mask, holder, quota, context.team)


def spread_weights(scores: list[np.ndarray], count: int) -> list[int]:
    """Count the weights of each mixing among the ``count`` best weights of the network.

    Args:
        scores: of the weights of each mixing, any shapes.
        count: at most the number of all weights.
    """
    pooled = np.concatenate([of_mixing.ravel() for of_mixing in scores])
    if count >= pooled.size:
        return [of_mixing.size for of_mixing in scores]
    threshold = np.partition(pooled, pooled.size - count - 1)[pooled.size - count - 1]
    return [int(np.count_nonzero(of_mixing > threshold)) for of_mixing in scores]


def weight_scores(moments: Moments, metric: np.ndarray) -> np.ndarray:
    """Cost of removing each weight alone, (m, n k)."""
    return np.diag(metric)[:, None] * moments.best**2 / np.diag(np.linalg.inv(moments.H))


def sparsify(
    moments: Moments,
    metric: np.ndarray,
    mask: np.ndarray,
    holder: np.ndarray,
    quota: np.ndarray,
    team: Team,
) -> np.ndarray:
    """Thin out ``mask`` until every worker holds at most its quota of weights; collective.

    Args:
        moments: of the mixing.
        metric: M, (m, m).
        mask: the neurons that depend on each other, bool (m, n).
        holder: the worker that holds the weights of each pair, (m, n).
        quota: weights that each worker may keep, (P,).
        team: shares the work.

    Returns:
        the mask of the weights that are kept, bool (m, n k).
    """
    taps = len(moments.H) // mask.shape[1]
    mask, holder = columns(mask, taps), columns(holder, taps)
    limits = np.bincount(holder[mask], minlength=len(quota))
    while (limits > quota).any():
        limits = np.minimum(limits, np.maximum(quota, (LEAST_KEPT * limits).astype(np.int64)))
        scores = _scores(moments, metric, mask, team)
        mask = _highest(scores, mask, holder, limits)
    return mask


def _scores(moments: Moments, metric: np.ndarray, mask: np.ndarray, team: Team) -> np.ndarray:
    """Cost of the removal of each weight on the mask, (m, n k); zero elsewhere."""
    weight = np.diag(metric)
    groups = row_groups(mask)

    def group_scores(group: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        rows, S = group
        inverse = np.linalg.inv(moments.H[np.ix_(S, S)])
        V = moments.R[np.ix_(rows, S)] @ inverse
        return weight[rows, None] * V**2 / np.diag(inverse)

    scores = np.zeros(mask.shape)
    for (rows, S), of_group in zip(groups, team.map(group_scores, groups), strict=True):
        scores[np.ix_(rows, S)] = of_group
    return scores


def _highest(scores: np.ndarray, mask: np.ndarray, holder: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Mask of the ``limits[q]`` weights of every worker q that have the highest scores."""
    rows, columns = np.nonzero(mask)
    order = np.lexsort((-scores[rows, columns], holder[rows, columns]))
    rows, columns = rows[order], columns[order]
    workers = holder[rows, columns]
    rank = np.arange(len(rows)) - np.searchsorted(workers, workers)
    is_kept = rank < limits[workers]
    best_mask = np.zeros_like(mask)
    best_mask[rows[is_kept], columns[is_kept]] = True
    return best_mask
