"""Shards -> the restructured network that they were cut from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.shard import Block, Shard


def assemble(shards: Iterable[Shard]) -> Network:
    """The whole restructured network.

    Args:
        shards: of every worker, in order; taken one at a time.

    Returns:
        weights and biases of the dtype of the shards; what was pruned is zero.
    """
    whole: dict[str, Mixing] = {}
    for shard in shards:
        graph = shard.graph
        for mixing in graph.mixings:
            block = shard.blocks[mixing.name]
            if mixing.name not in whole:
                whole[mixing.name] = _zeros(graph, mixing, block)
            _add(whole[mixing.name], shard, block)
    return graph.with_mixings(whole)


def _zeros(graph: Network, mixing: Mixing, block: Block) -> Mixing:
    m, n = graph.space(mixing.target).neurons, graph.space(mixing.source).neurons
    weights = np.zeros((m, n * mixing.taps), block.own_weights.dtype)
    return replace(mixing, weights=weights, bias=np.zeros(m, block.bias.dtype))


def _add(whole: Mixing, shard: Shard, block: Block) -> None:
    """Put the part of one worker into its place in ``whole``."""
    m, n = whole.weights.shape
    weights = whole.weights.reshape(m, n // whole.taps, whole.taps)
    rows, columns = (shard.own[shard.graph.space(end).name] for end in (whole.target, whole.source))

    def add(rows: np.ndarray, columns: np.ndarray, part: np.ndarray) -> None:
        weights[np.ix_(rows, columns)] += part.reshape(len(rows), len(columns), whole.taps)

    add(rows, columns, block.own_weights)
    # Ghosts are further columns, sums further rows; where they meet, all but one hold a zero.
    add(rows, block.ghost_neurons, block.ghost_weights)
    add(block.sums.sent, columns, block.sum_weights)
    whole.bias[rows] = block.bias
