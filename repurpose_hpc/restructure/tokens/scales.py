"""The scales of ghosts that travel as multiples of one, measured on calibration texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.comm_dtype import INT8, scales_of
from repurpose_hpc.model.forward import trace
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.tokens.propagation import embedded
from repurpose_hpc.restructure.tokens.quality import batches

# Formats that need them.
SCALED = {INT8}


def with_scales(cut: Cut, texts: Sequence[np.ndarray], comm_dtype: str) -> Cut:
    """A restructured network of tokens whose ghosts travel in ``comm_dtype``.

    Args:
        cut: the network.
        texts: calibration data, ids (tokens,) of each.
        comm_dtype: one of ``COMM_DTYPES``.
    """
    plan = replace(cut.plan, comm_dtype=comm_dtype)
    if comm_dtype not in SCALED:
        return replace(cut, plan=plan)
    network = cut.network.astype(np.float32)
    # Of what nobody sends, nobody needs a scale.
    largest = {mixing.source: np.zeros(network.space(mixing.source).neurons) for mixing in network.mixings}
    sent = {mixing.source for mixing in network.mixings if plan.ghost_traffic(network, mixing).any()}
    for ids in batches(network, texts):
        tensors = trace(network.at(ids.shape[1]), embedded(network, ids))
        for source in sent:
            found = np.abs(tensors[source]).reshape(len(largest[source]), -1).max(axis=1)
            np.maximum(largest[source], found, out=largest[source])
    scales = {source: scales_of(values) for source, values in largest.items()}
    return replace(cut, plan=replace(plan, scales=scales))
