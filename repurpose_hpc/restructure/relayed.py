"""Steps 3.6 and 4 for a mixing with relays: those that are kept, and the weights that read them.

A relay is one more input of the mixing, r = C x̂, whose moments follow from those of x̂; before a window of k
entries it is k columns.  So weights on own neurons and on relays are adjusted together, as others are, and
where relays arrive rounded, their noise is part of the problem as that of ghosts is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.sparse import vstack

from repurpose_hpc.model.comm_dtype import scales_of
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.relays import Relays, making
from repurpose_hpc.restructure.adjustment import Fit, adjust
from repurpose_hpc.restructure.calibration.comm_dtype import (
    measure_noise,
    measure_relay_noise,
    settle_relays,
)
from repurpose_hpc.restructure.calibration.moments import Moments
from repurpose_hpc.restructure.context import CutContext
from repurpose_hpc.restructure.decisions import Decisions
from repurpose_hpc.restructure.support.elimination import columns
from repurpose_hpc.restructure.support.problem import MixingProblem
from repurpose_hpc.restructure.support.tradeoff import Tradeoff
from repurpose_hpc.restructure.team import Team


def relays_of(problem: MixingProblem, form: Tradeoff, rows: int, price: float) -> Relays:
    """The relays of a form that are worth more than ``price``, for so many rows; no weights read them yet."""
    kept = [np.sort(ranking.kept(price)) for ranking in form.relays]
    combined = vstack([C[chosen] for C, chosen in zip(form.combinations, kept, strict=True)]).toarray()
    taps = len(problem.moments.H) // combined.shape[1]
    source_owner = np.repeat(problem.source_owner, combined.shape[1] // problem.source_owner.size)
    return Relays(
        # All neurons that a relay combines are of one worker.
        sender=source_owner[(combined != 0).argmax(axis=1)],
        receiver=np.repeat(np.arange(len(kept), dtype=np.int32), [len(chosen) for chosen in kept]),
        combined=combined,
        weights=np.zeros((rows, len(combined) * taps)),
        scales=np.zeros(len(combined), np.float32),
        outliers=np.zeros(len(combined), bool),
    )


def adjust_relayed(
    context: CutContext,
    decisions: Decisions,
    mixing: Mixing,
    problem: MixingProblem,
    mask: np.ndarray,
    fit: Fit | None = None,
) -> tuple[Mixing, Relays]:
    """Final weights and bias of a mixing with relays; collective.

    Args:
        context, decisions: of the run; the mixing is planned, and has relays.
        mixing: the original.
        problem: it, with the moments that errors were judged by.
        mask: of the neurons that depend on each other without relays, bool (m, n), or of weights, (m, n k).
        fit: of the same problem, which serves if it is the same.

    Returns:
        the mixing, which computes what it does with its relays, and these.
    """
    relays, root = decisions.relays[mixing.name], context.statistics.roots[mixing.name]
    relays = replace(relays, scales=_scales(context, decisions, mixing, relays))
    relays = settle_relays(context.propagation, mixing, relays, context.current(decisions))
    owner, passes = context.owner(decisions, mixing.target), context.method.compensation
    noise = None
    if context.arrives_rounded(mixing, decisions):
        noise = _noise(context, decisions, mixing, relays)
    elif fit is not None and fit.by_relays is not None and fit.is_on(mask, relays.combined):
        return fit.mixing, replace(relays, weights=fit.by_relays)
    adjusted, weights = fit_relayed(
        mixing, problem.moments, relays, mask, owner, root, context.team, passes, noise
    )
    return adjusted, replace(relays, weights=weights)


def fit_relayed(
    mixing: Mixing,
    moments: Moments,
    relays: Relays,
    mask: np.ndarray,
    owner: np.ndarray,
    root: np.ndarray,
    team: Team,
    passes: int,
    noise: np.ndarray | None = None,
) -> tuple[Mixing, np.ndarray]:
    """The best weights and bias of a mixing with relays; collective.

    Args:
        mixing, moments, mask, root, team, passes: as of ``adjustment.adjust``.
        relays: what they combine, and for whom.
        owner: of the rows, (m,).
        noise: N of the columns of the mixing and of those of the relays; None: nothing arrives rounded.

    Returns:
        the mixing, which computes what it does with its relays, and the weights that read these.
    """
    receives = _receives(relays, owner)
    mask = np.hstack([columns(mask, mixing.W.shape[1] // mask.shape[1]), receives])
    wider = replace(mixing, weights=np.hstack([mixing.W, np.zeros(receives.shape)]))
    moments = with_combinations(moments, relays.columns)
    adjusted = adjust(wider, moments, mask, root, team, noise, passes)
    direct, by_relays = np.split(adjusted.W, [mixing.W.shape[1]], axis=1)
    product = replace(relays, weights=by_relays).product()
    return replace(adjusted, weights=direct + product), by_relays


def _scales(context: CutContext, decisions: Decisions, mixing: Mixing, relays: Relays) -> np.ndarray:
    """Scales of relays from the largest in the calibration data, (r,) float32; collective."""

    op = making(mixing, relays, f"{mixing.name} relays")

    def largest(x: np.ndarray) -> np.ndarray:
        return np.abs(op.compute(x).reshape(len(relays), -1)).max(axis=1)

    of_batches = context.propagation.map(largest, [mixing.source], context.current(decisions))
    return scales_of(np.max([*of_batches], axis=0))


def _noise(context: CutContext, decisions: Decisions, mixing: Mixing, relays: Relays) -> np.ndarray:
    """N of ghosts and of relays, (m, n k + columns of relays), of a mixing with relays; collective.

    Args:
        context, decisions, mixing: as of ``adjust_relayed``.
        relays: with their scales.
    """
    current, owner = context.current(decisions), context.owner(decisions, mixing.target)
    of_ghosts = measure_noise(context.propagation, mixing, current)
    of_relays = measure_relay_noise(context.propagation, mixing, relays, current)
    receives = _receives(relays, owner)
    return np.hstack([of_ghosts, np.where(receives, of_relays.repeat(relays.taps), 0.0)])


def _receives(relays: Relays, owner: np.ndarray) -> np.ndarray:
    """The columns of relays that rows of these owners, (m,), read: bool (m, columns of relays)."""
    return columns(owner[:, None] == relays.receiver, relays.taps)


def with_combinations(moments: Moments, C: np.ndarray) -> Moments:
    """The moments of a mixing whose columns are x̂ and C x̂, C of shape (r, n k)."""
    CH = C @ moments.H
    return Moments(
        H=np.block([[moments.H, CH.T], [CH, CH @ C.T]]),
        R=np.hstack([moments.R, moments.R @ C.T]),
        variance=moments.variance,
        mean_x=np.concatenate([moments.mean_x, C @ moments.mean_x]),
        mean_y=moments.mean_y,
    )
