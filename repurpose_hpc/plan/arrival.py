"""What the workers compute together when ghosts arrive rounded: the reference of runs with a wire.

A row of worker q meets Q(x_j), what arrives of x_j, where j is a ghost of q, and x_j itself elsewhere:
among its own neurons, in partial sums, in a replicated input.  So a mixing is W x + W' (Q(x) − x), W' its
weights that meet ghosts.  Workers of one rank exchange rounded values too: results do not
depend on the number of ranks.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from repurpose_hpc.model.comm_dtype import EXACT, received
from repurpose_hpc.model.forward import Compute, compute
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing, Operation
from repurpose_hpc.plan.plan import Plan


def computing(network: Network, plan: Plan, wire: str) -> Compute:
    """What computes the operations of a restructured network, for ``model.reference.forward`` and ``trace``.

    Args:
        network: its graph; the weights are those of the operations that are computed.
        plan: of all mixings that are computed; with scales for int8.
        wire: how ghosts travel, one of ``WIRES``.
    """
    if wire == EXACT:
        return compute

    def rounding(op: Operation, *x: np.ndarray) -> np.ndarray:
        y = compute(op, *x)
        if not isinstance(op, Mixing):
            return y
        meets = plan.arriving(network, op).repeat(op.taps, axis=1)
        if not meets.any():
            return y
        weights = np.where(meets, op.weights, 0)
        away = replace(op, weights=weights, bias=np.zeros_like(op.bias))
        return y + compute(away, rounding_errors(x[0], wire, plan.scales.get(op.source)))

    return rounding


def rounding_errors(x: np.ndarray, wire: str, scale: np.ndarray | None) -> np.ndarray:
    """Q(x) − x, in the dtype of ``x``; see ``model.wire.received``."""
    return received(x, wire, scale).astype(x.dtype, copy=False) - x
