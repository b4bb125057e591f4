"""The network as its workers compute it when ghosts arrive rounded: the reference of runs with a comm dtype.

A row of worker q meets Q(x_j), what arrives of x_j, where j is a ghost of q, and x_j itself elsewhere:
among its own neurons, in partial sums, in a replicated input.  So a mixing is W x + W' (Q(x) − x), W' its
weights that meet ghosts.  Relays r = C x, which a mixing reads with weights U, add U (Q(r) − r).  Workers of
one rank exchange rounded values too: results do not depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from repurpose_hpc.model.comm_dtype import EXACT, received
from repurpose_hpc.model.forward import Compute, compute
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing, Operation
from repurpose_hpc.model.weights import values_of
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.relays import Relays, making, reading

NO_RELAYS: Mapping[str, Relays] = MappingProxyType({})


def rounded_compute(
    network: Network, plan: Plan, comm_dtype: str, relays: Mapping[str, Relays] = NO_RELAYS
) -> Compute:
    """A function that computes operations as the workers do, for ``forward`` and ``trace`` of the model.

    Args:
        network: its graph; the weights are those of the operations that are computed.
        plan: of all mixings that are computed; with scales for scaled formats.
        comm_dtype: the format in which ghosts travel, one of ``COMM_DTYPES``.
        relays: mixing -> those that are part of its weights; relays that are neurons of ``network`` are not.
    """
    if comm_dtype == EXACT:
        return compute

    def rounding(op: Operation, *x: np.ndarray) -> np.ndarray:
        y = compute(op, *x)
        if not isinstance(op, Mixing):
            return y
        weights = plan.arriving_weights(network, op)
        if values_of(weights).any():
            away = replace(op, weights=weights, bias=np.zeros_like(op.bias))
            y = y + compute(away, ghost_errors(plan, op, x[0], comm_dtype))
        if op.name in relays:
            reads = reading(op, relays[op.name], "relays", op.name)
            y = y + compute(reads, relay_errors(op, relays[op.name], x[0], comm_dtype))
        return y

    return rounding


def ghost_errors(plan: Plan, mixing: Mixing, x: np.ndarray, comm_dtype: str) -> np.ndarray:
    """Q(x) − x of the source of a mixing, x; in the dtype of ``x``."""
    return rounding_errors(x, comm_dtype, plan.scales.get(mixing.source), plan.outliers.get(mixing.source))


def relay_errors(mixing: Mixing, relays: Relays, x: np.ndarray, comm_dtype: str) -> np.ndarray:
    """Q(r) − r of the relays that a mixing makes of its source, x; in the dtype of ``x``."""
    r = compute(making(mixing, relays, "relays"), x)
    return rounding_errors(r, comm_dtype, relays.scales, relays.outliers)


def rounding_errors(
    x: np.ndarray, comm_dtype: str, scale: np.ndarray | None, outliers: np.ndarray | None = None
) -> np.ndarray:
    """Q(x) − x, in the dtype of ``x``; see ``model.comm_dtype.received``."""
    return received(x, comm_dtype, scale, outliers).astype(x.dtype, copy=False) - x
