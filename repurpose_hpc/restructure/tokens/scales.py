"""The scales of ghosts that travel as multiples of one, and their outliers, measured on calibration texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.comm_dtype import SCALED, scales_of
from repurpose_hpc.model.forward import trace
from repurpose_hpc.model.network import Network
from repurpose_hpc.restructure.calibration.reach import attempts, settled
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.tokens.propagation import embedded
from repurpose_hpc.restructure.tokens.quality import batches


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
    scales = {m.source: np.zeros(network.space(m.source).neurons, np.float32) for m in network.mixings}
    sent = {m.source for m in network.mixings if plan.ghost_traffic(network, m).any()}
    largest = {source: np.zeros(scales[source].size) for source in sent}
    for source, x in _sent(network, sent, texts):
        np.maximum(largest[source], np.abs(x).max(axis=1), out=largest[source])
    scales |= {source: scales_of(values) for source, values in largest.items()}
    squares: dict[str, np.ndarray] = {}
    for source, x in _sent(network, sent, texts):
        tried = attempts(x, comm_dtype, scales[source])
        squares[source] = squares.get(source, 0) + (tried**2).sum(axis=1, dtype=np.float64)
    found = {source: settled(scales[source], total) for source, total in squares.items()}
    scales |= {source: each.scales for source, each in found.items()}
    outliers = {source: each.outliers for source, each in found.items() if each.outliers.any()}
    return replace(cut, plan=replace(plan, scales=scales, outliers=outliers))


def _sent(
    network: Network, sources: set[str], texts: Sequence[np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """Tensors, (neurons, tokens), batch by batch."""
    for ids in batches(network, texts):
        tensors = trace(network.at(ids.shape[1]), embedded(network, ids))
        yield from ((source, tensors[source].reshape(len(tensors[source]), -1)) for source in sources)
