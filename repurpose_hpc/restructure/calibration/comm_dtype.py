"""Rounded ghosts in the calibration data: scales for int8, and the noise that rounding adds (step 4.2).

A ghost j arrives as Q(x̂_j) instead of x̂_j.  Taken as noise that nothing else depends on, of mean square
σ_j² = mean |Q(x̂_j) − x̂_j|², it adds σ_j² to the diagonal entry of j in the Gram matrix of the rows
that read it as a ghost, and nothing else.  Relays are made of exact neurons and rounded then: theirs is noise
of the same kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.comm_dtype import INT8, scales_of
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.relays import Relays
from repurpose_hpc.plan.rounding import relay_errors, rounding_errors
from repurpose_hpc.restructure.calibration.propagation import CurrentNetwork, Propagation
from repurpose_hpc.restructure.context import CutContext
from repurpose_hpc.restructure.decisions import Decisions
from repurpose_hpc.restructure.support.elimination import columns


def measure_scales(
    propagation: Propagation, tensors: Iterable[str], current: CurrentNetwork
) -> Mapping[str, np.ndarray]:
    """Scales of the plan and of ``tensors``, these from the largest |x̂_j|; collective.

    Args:
        propagation: of the calibration data.
        tensors: in the order in which they are made; those that have scales are left alone.
        current: all that they depend on is final.
    """
    unscaled = [tensor for tensor in dict.fromkeys(tensors) if tensor not in current.plan.scales]
    # What is behind ghosts in int8 is known only with their scales.
    groups = [[tensor] for tensor in unscaled] if current.plan.comm_dtype == INT8 else [unscaled]
    for group in groups:
        largest = [np.zeros(current.network.space(tensor).neurons) for tensor in group]
        for batch in propagation.map(_largest, group, current):
            largest = [np.maximum(*pair) for pair in zip(largest, batch, strict=True)]
        scales = {**current.plan.scales, **dict(zip(group, map(scales_of, largest), strict=True))}
        current = replace(current, plan=replace(current.plan, scales=scales))
    return current.plan.scales


def measure_scales_until(context: CutContext, decisions: Decisions, last: Mixing) -> Decisions:
    """Measure scales of what the mixings up to ``last`` read; collective."""
    names = [mixing.name for mixing in context.network.mixings]
    mixings = context.network.mixings[: names.index(last.name) + 1]
    tensors = (mixing.source for mixing in mixings)
    return replace(decisions, scales=measure_scales(context.propagation, tensors, context.current(decisions)))


def _largest(*tensors: np.ndarray) -> list[np.ndarray]:
    return [np.abs(x).reshape(len(x), -1).max(axis=1) for x in tensors]


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
        return rounding_errors(x, plan.comm_dtype, plan.scales.get(mixing.source))

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
