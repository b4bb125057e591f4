"""Rounded ghosts in the calibration data: scales, outliers, and the noise that rounding adds (step 4.2).

A ghost j arrives as Q(x̂_j) instead of x̂_j.  Taken as noise that nothing else depends on, of mean square
σ_j² = mean |Q(x̂_j) − x̂_j|², it adds σ_j² to the diagonal entry of j in the Gram matrix of the rows
that read it as a ghost, and nothing else.  Relays are made of exact neurons and rounded then: theirs is noise
of the same kind.  How far scaled formats reach, and what travels as float16, ``reach`` tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.comm_dtype import SCALED, scales_of
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.relays import Relays, making
from repurpose_hpc.plan.rounding import ghost_errors, relay_errors
from repurpose_hpc.restructure.calibration.propagation import CurrentNetwork, Propagation
from repurpose_hpc.restructure.calibration.reach import Settled, attempts, settled
from repurpose_hpc.restructure.context import CutContext
from repurpose_hpc.restructure.decisions import Decisions
from repurpose_hpc.restructure.support.elimination import columns


def measure_scales(propagation: Propagation, tensors: Iterable[str], current: CurrentNetwork) -> Plan:
    """The plan with scales of ``tensors``, from the largest |x̂_j|, and outliers; collective.

    Args:
        propagation: of the calibration data.
        tensors: in the order in which they are made; those that have scales are left alone.
        current: all that they depend on is final.
    """
    plan = current.plan
    unscaled = [tensor for tensor in dict.fromkeys(tensors) if tensor not in plan.scales]
    # What is behind ghosts in a scaled format is known only with their scales.
    groups = [[tensor] for tensor in unscaled] if plan.comm_dtype in SCALED else [unscaled]
    for group in groups:
        current = replace(current, plan=plan)
        largest = [np.zeros(current.network.space(tensor).neurons) for tensor in group]
        for batch in propagation.map(_largest, group, current):
            largest = [np.maximum(*pair) for pair in zip(largest, batch, strict=True)]
        scales = dict(zip(group, map(scales_of, largest), strict=True))
        outliers: dict[str, np.ndarray] = {}
        if plan.comm_dtype in SCALED:
            for tensor in group:
                scales[tensor], mask = _settled(propagation, tensor, scales[tensor], current)
                outliers |= {tensor: mask} if mask.any() else {}
        plan = replace(plan, scales={**plan.scales, **scales}, outliers={**plan.outliers, **outliers})
    return plan


def measure_scales_until(context: CutContext, decisions: Decisions, last: Mixing) -> Decisions:
    """Measure scales and outliers of what the mixings up to ``last`` read; collective."""
    names = [mixing.name for mixing in context.network.mixings]
    mixings = context.network.mixings[: names.index(last.name) + 1]
    tensors = (mixing.source for mixing in mixings)
    plan = measure_scales(context.propagation, tensors, context.current(decisions))
    return replace(decisions, scales=plan.scales, outliers=plan.outliers)


def _largest(*tensors: np.ndarray) -> list[np.ndarray]:
    return [np.abs(x).reshape(len(x), -1).max(axis=1) for x in tensors]


def _settled(propagation: Propagation, tensor: str, scales: np.ndarray, current: CurrentNetwork) -> Settled:
    """Scales and outliers of a tensor; ``scales`` are those of the largest values; collective."""

    def tried(x: np.ndarray) -> np.ndarray:
        return attempts(x, current.plan.comm_dtype, scales)

    return settled(scales, _mean_squares(propagation, tensor, current, tried))


def settle_relays(
    propagation: Propagation, mixing: Mixing, relays: Relays, current: CurrentNetwork
) -> Relays:
    """Relays with their scales and outliers, if they travel in a scaled format; collective.

    Args:
        propagation, mixing, current: as of ``measure_noise``.
        relays: with the scales of the largest values.
    """
    if current.plan.comm_dtype not in SCALED:
        return relays
    op = making(mixing, relays, "relays")

    def tried(x: np.ndarray) -> np.ndarray:
        return attempts(op.compute(x), current.plan.comm_dtype, relays.scales)

    found = settled(relays.scales, _mean_squares(propagation, mixing.source, current, tried))
    return replace(relays, **found._asdict())


def measure_noise(propagation: Propagation, mixing: Mixing, current: CurrentNetwork) -> np.ndarray:
    """Measure the noise of each input of each row: σ_j² where j is a ghost, else 0, (m, n k); collective.

    On maps the mean is over all positions.

    Args:
        propagation: of the calibration data.
        mixing: planned, not finished.
        current: all that its source depends on is final.
    """
    plan = current.plan

    def errors(x: np.ndarray) -> np.ndarray:
        return ghost_errors(plan, mixing, x, plan.comm_dtype)

    arriving = plan.arriving(current.network, mixing)
    squares = _mean_squares(propagation, mixing.source, current, errors)
    return columns(np.where(arriving, squares, 0.0), mixing.taps)


def measure_relay_noise(
    propagation: Propagation, mixing: Mixing, relays: Relays, current: CurrentNetwork
) -> np.ndarray:
    """Measure the noise of each relay, mean |Q(r) − r|², (r,); collective; see ``measure_noise``.

    Args:
        propagation, mixing, current: see there.
        relays: of the mixing, with their scales.
    """

    def errors(x: np.ndarray) -> np.ndarray:
        return relay_errors(mixing, relays, x, current.plan.comm_dtype)

    return _mean_squares(propagation, mixing.source, current, errors)


def _mean_squares(
    propagation: Propagation,
    tensor: str,
    current: CurrentNetwork,
    errors: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Mean squares, over samples and positions, of the errors of each row that ``errors`` makes of x̂."""

    def squares(x: np.ndarray) -> tuple[np.ndarray, int]:
        e = errors(x)
        e = e.reshape(len(e), -1)
        return np.einsum("ij,ij->i", e, e), e.shape[1]

    total, count = np.zeros(()), 0
    for batch, columns_seen in propagation.map(squares, [tensor], current):
        total, count = total + batch, count + columns_seen
    return total / count
