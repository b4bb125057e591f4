"""Shards -> the restructured network that they were cut from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.model.weights import SparseWeights, Weights, column_numbers, sparse
from repurpose_hpc.plan.shard import Block, Shard


def assemble(shards: Iterable[Shard]) -> Network:
    """The restructured network, all of it.

    Args:
        shards: of every worker, in order; taken one at a time.

    Returns:
        weights and biases of the dtype of the shards; what was pruned is zero.
    """
    parts: dict[str, _Parts] = {}
    for shard in shards:
        graph = shard.graph
        for mixing in graph.mixings:
            block = shard.blocks[mixing.name]
            if mixing.name not in parts:
                make = _SparseParts if isinstance(block.own_weights, SparseWeights) else _DenseParts
                parts[mixing.name] = make(graph, mixing, block)
            parts[mixing.name].add_block(shard, block)
    return graph.with_mixings({name: each.mixing() for name, each in parts.items()})


class _Parts(ABC):
    """What the workers have of one mixing, brought together."""

    def __init__(self, graph: Network, mixing: Mixing, block: Block) -> None:
        self._mixing, self.dtype = mixing, block.own_weights.dtype
        m, n = graph.space(mixing.target).neurons, graph.space(mixing.source).neurons
        self.shape, self.bias = (m, n * mixing.taps), np.zeros(m, block.bias.dtype)

    def add_block(self, shard: Shard, block: Block) -> None:
        """Put the part of one worker into its place."""
        mixing = self._mixing
        rows, columns = (shard.own[shard.graph.space(end).name] for end in (mixing.target, mixing.source))
        columns = column_numbers(columns, mixing.taps)
        self.add(rows, columns, block.own_weights)
        # Ghosts are further columns, sums further rows.
        self.add(rows, column_numbers(block.ghost_neurons, mixing.taps), block.ghost_weights)
        if not block.is_common:
            self.add(block.sums.sent, columns, block.sum_weights)
        _fill(self.bias, rows, block.bias)

    def mixing(self) -> Mixing:
        """The whole of it."""
        return replace(self._mixing, weights=self.weights(), bias=self.bias)

    @abstractmethod
    def add(self, rows: np.ndarray, columns: np.ndarray, part: Any) -> None:
        """Put weights into some rows and columns."""

    @abstractmethod
    def weights(self) -> Weights:
        """All weights."""


class _DenseParts(_Parts):
    def __init__(self, graph: Network, mixing: Mixing, block: Block) -> None:
        super().__init__(graph, mixing, block)
        self._array = np.zeros(self.shape, self.dtype)

    def add(self, rows: np.ndarray, columns: np.ndarray, part: np.ndarray) -> None:
        _fill(self._array, np.ix_(rows, columns), part)

    def weights(self) -> np.ndarray:
        return self._array


class _SparseParts(_Parts):
    def __init__(self, graph: Network, mixing: Mixing, block: Block) -> None:
        super().__init__(graph, mixing, block)
        self._entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, rows: np.ndarray, columns: np.ndarray, part: SparseWeights) -> None:
        self._entries.append((rows[part.rows], columns[part.columns], part.values))

    def weights(self) -> SparseWeights:
        rows, columns, values = (np.concatenate(each) for each in zip(*self._entries, strict=True))
        # Who computes a copy of a neuron has a copy of its row.
        _, once = np.unique(rows * self.shape[1] + columns, return_index=True)
        return sparse(self.shape, rows[once], columns[once], values[once])


def _fill(array: np.ndarray, places: Any, part: np.ndarray) -> None:
    """Put numbers into their places; who has the same place has the same number, or a zero."""
    array[places] = np.where(part != 0, part, array[places])
