"""Shards -> the restructured network that they were cut from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.shard import Block, Shard


def assemble(shards: Iterable[Shard]) -> Network:
    """The restructured network, all of it.

    Args:
        shards: of every worker, in order; taken one at a time.

    Returns:
        weights and biases of the dtype of the shards; what was pruned is zero.
    """
    mixings: dict[str, Mixing] = {}
    for shard in shards:
        graph = shard.graph
        for mixing in graph.mixings:
            block = shard.blocks[mixing.name]
            if mixing.name not in mixings:
                mixings[mixing.name] = _zeros(graph, mixing, block)
            _add(mixings[mixing.name], shard, block)
    return graph.with_mixings(mixings)


def _zeros(graph: Network, mixing: Mixing, block: Block) -> Mixing:
    m, n = graph.space(mixing.target).neurons, graph.space(mixing.source).neurons
    weights = np.zeros((m, n * mixing.taps), block.own_weights.dtype)
    return replace(mixing, weights=weights, bias=np.zeros(m, block.bias.dtype))


def _add(mixing: Mixing, shard: Shard, block: Block) -> None:
    """Put the part of one worker into its place in ``mixing``."""
    m, n = mixing.weights.shape
    weights = mixing.weights.reshape(m, n // mixing.taps, mixing.taps)
    rows, columns = (shard.own[shard.graph.space(end).name] for end in (mixing.target, mixing.source))

    def add(rows: np.ndarray, columns: np.ndarray, part: np.ndarray) -> None:
        _fill(weights, np.ix_(rows, columns), part.reshape(len(rows), len(columns), mixing.taps))

    add(rows, columns, block.own_weights)
    # Ghosts are further columns, sums further rows.
    add(rows, block.ghost_neurons, block.ghost_weights)
    if not block.is_common:
        add(block.sums.sent, columns, block.sum_weights)
    _fill(mixing.bias, rows, block.bias)


def _fill(array: np.ndarray, places: Any, part: np.ndarray) -> None:
    """Put numbers into their places; who has the same place has the same number, or a zero."""
    array[places] = np.where(part != 0, part, array[places])
