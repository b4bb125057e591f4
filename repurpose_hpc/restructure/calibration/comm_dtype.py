"""What the wire does to ghosts, measured on the calibration data.

A ghost j arrives as Q(x̂_j) instead of x̂_j.  Taken as noise that nothing else depends on, of mean square
σ_j² = mean |Q(x̂_j) − x̂_j|², it adds σ_j² to the diagonal entry of j in the Gram matrix of the rows
that read it as a ghost, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from repurpose_hpc.model.comm_dtype import INT8, scales_of
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.arrival import rounding_errors
from repurpose_hpc.restructure.calibration.propagation import Current, Propagation
from repurpose_hpc.restructure.support.elimination import columns


def measure_scales(propagation: Propagation, tensors: Iterable[str], current: Current) -> None:
    """Add the scales of ``tensors`` to those of the plan, from the largest |x̂_j|; collective.

    Args:
        propagation: of the calibration data.
        tensors: in the order in which they are made; those that have scales are left alone.
        current: all that they depend on is final.
    """
    scales = current.plan.scales
    missing = [tensor for tensor in dict.fromkeys(tensors) if tensor not in scales]
    # What is behind ghosts in int8 is known only with their scales.
    together = [[tensor] for tensor in missing] if current.plan.wire == INT8 else [missing]
    for group in together:
        largest = [np.zeros(current.network.space(tensor).neurons) for tensor in group]
        for batch in propagation.each(_largest, group, current):
            largest = [np.maximum(*pair) for pair in zip(largest, batch, strict=True)]
        scales.update(zip(group, map(scales_of, largest), strict=True))


def _largest(*tensors: np.ndarray) -> list[np.ndarray]:
    return [np.abs(x).reshape(len(x), -1).max(axis=1) for x in tensors]


def measure_noise(propagation: Propagation, mixing: Mixing, current: Current) -> np.ndarray:
    """What the wire adds to each input of each row: σ_j² where j is a ghost, else 0, (m, n k); collective.

    On maps the mean is over all positions.

    Args:
        propagation: of the calibration data.
        mixing: planned, not finished.
        current: all that its source depends on is final.
    """
    plan = current.plan

    def squares(x: np.ndarray) -> tuple[np.ndarray, int]:
        errors = rounding_errors(x, plan.wire, plan.scales.get(mixing.source)).reshape(len(x), -1)
        return np.einsum("ij,ij->i", errors, errors), errors.shape[1]

    total, count = 0.0, 0
    for batch, columns_seen in propagation.each(squares, [mixing.source], current):
        total, count = total + batch, count + columns_seen
    arriving = plan.arriving(current.network, mixing)
    return columns(np.where(arriving, total / count, 0.0), mixing.taps)
