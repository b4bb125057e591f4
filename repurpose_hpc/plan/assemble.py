"""Shards -> the restructured network that they were cut from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.shard import Shard


def assemble(shards: Sequence[Shard]) -> Network:
    """The whole restructured network.

    Args:
        shards: of every worker, in order.

    Returns:
        weights and biases of the dtype of the shards; what was pruned is zero.
    """
    graph = shards[0].graph
    return graph.with_mixings({mixing.name: _assemble_mixing(shards, mixing) for mixing in graph.mixings})


def _assemble_mixing(shards: Sequence[Shard], mixing: Mixing) -> Mixing:
    graph = shards[0].graph
    source, target = graph.space(mixing.source), graph.space(mixing.target)
    blocks = [shard.blocks[mixing.name] for shard in shards]
    weights = np.zeros((target.neurons, source.neurons, mixing.taps), blocks[0].own_weights.dtype)
    bias = np.zeros(target.neurons, blocks[0].bias.dtype)

    def add(rows: np.ndarray, columns: np.ndarray, part: np.ndarray) -> None:
        weights[np.ix_(rows, columns)] += part.reshape(len(rows), len(columns), mixing.taps)

    for shard, block in zip(shards, blocks, strict=True):
        rows, columns = shard.own[target.name], shard.own[source.name]
        add(rows, columns, block.own_weights)
        # Ghosts are further columns, sums further rows; where they meet, all but one hold a zero.
        add(rows, block.ghost_neurons, block.ghost_weights)
        add(block.sums.sent, columns, block.sum_weights)
        bias[rows] = block.bias
    return replace(mixing, weights=weights.reshape(target.neurons, -1), bias=bias)
