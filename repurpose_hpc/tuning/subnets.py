"""Subnets: what a worker has, and hidden neurons of others that it computes by itself.

A *subnet* of a worker is its neurons with all that the plan brings them, and a random sample of the hidden
neurons that others own.  These are computed from what is in the subnet, with the weights of the original.
They are what the plan has pruned: what own neurons read of them are the original's weights, too.

A subnet is a shard with more neurons of its own.  Those that are sampled have numbers behind all others, and
no other worker knows them: so nothing crosses for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Attention, Mixing, Retention, Rotary, Rows, Select
from repurpose_hpc.model.weights import column_numbers, dense, picked
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.shard import Block, Shard
from repurpose_hpc.runtime.lowering.blocks import weights_of

# Sampled neurons of a space, over those that a worker owns.
SHARE = 0.5
# What looks at more than one neuron, or moves them.
_TIES = (Attention, Retention, Rotary, Select)


def sampled_spaces(graph: Network, original: Network) -> tuple[str, ...]:
    """The hidden spaces of which neurons may be had one by one: not heads of attention, nor what is selected.

    Args:
        graph: of the restructured network.
        original: that it was made from; the spaces of relays are not among its own.

    Raises:
        UserError: there is none.
    """
    tied = {graph.space_of[tensor] for tensor in (*graph.input_tensors, *graph.output_tensors)}
    for op in graph.operations:
        if isinstance(op, _TIES):
            tied |= {graph.space_of[tensor] for tensor in (op.target, *op.sources)}
    candidates = {space.name for space in original.free_spaces} - tied
    names = tuple(space.name for space in graph.free_spaces if space.name in candidates)
    if not names:
        raise UserError(
            "network: expected for --rotate a hidden layer whose neurons can be had one by one, found none; "
            "leave --rotate out"
        )
    return names


class Sample(NamedTuple):
    """The neurons of a space that workers have sampled.

    Attributes:
        size: neurons of the space.
        of_workers: those of each worker, ascending, int64.
    """

    size: int
    of_workers: tuple[np.ndarray, ...]

    @property
    def rows(self) -> Rows:
        """The neuron that each number stands for: first the space as it was, then what was sampled."""
        neurons = np.concatenate([np.arange(self.size), *self.of_workers])
        return Rows(neurons, np.zeros_like(neurons), self.size)

    def numbers(self, worker: int) -> np.ndarray:
        """The numbers of what a worker has sampled, int64."""
        first = self.size + sum(map(len, self.of_workers[:worker]))
        return np.arange(first, first + len(self.of_workers[worker]))


def drawn(plan: Plan, graph: Network, spaces: Sequence[str], stream: Sequence[int]) -> dict[str, Sample]:
    """Samples of neurons that others compute: for each worker ``SHARE`` of as many as it has of a space.

    Args:
        plan, graph: of the restructured network.
        spaces: ``sampled_spaces``.
        stream: whole numbers; with others all samples differ.
    """
    generator, removed = np.random.default_rng([*stream]), plan.removed_neurons(graph)
    samples = {}
    for name in spaces:
        owner = np.where(removed[name], plan.workers, plan.owners[name])
        parts = []
        for worker in range(plan.workers):
            others = np.flatnonzero((owner != worker) & (owner != plan.workers))
            count = min(math.ceil(SHARE * np.count_nonzero(owner == worker)), others.size)
            parts.append(np.sort(generator.choice(others, count, replace=False)))
        samples[name] = Sample(owner.size, tuple(parts))
    return samples


def widened(graph: Network, samples: Mapping[str, Sample]) -> Network:
    """A network, without the weights of mixings, in which what was sampled has neurons of its own."""
    rows = {name: sample.rows for name, sample in samples.items()}
    spaces = tuple(
        replace(space, neurons=rows[space.name].neurons.size) if space.name in rows else space
        for space in graph.spaces
    )
    operations = tuple(
        op
        if isinstance(op, Mixing) or graph.space_of[op.target] not in rows
        # All its tensors are of this space.
        else op.restricted(*(rows[graph.space_of[tensor]] for tensor in (op.target, *op.sources)))
        for op in graph.operations
    )
    return replace(graph, spaces=spaces, operations=operations)


class Widening:
    """Makes subnets of shards.

    Attributes:
        weights: of the original, that all subnets so far have taken, biases included.

    Args:
        original: the trained network, with the neurons of the plan.
        plan: of the shards.
        graph: of the restructured network.
    """

    def __init__(self, original: Network, plan: Plan, graph: Network) -> None:
        self._originals = {mixing.name: mixing for mixing in original.mixings}
        self._allowed = {
            mixing.name: plan.allowed(graph, mixing)
            for mixing in graph.mixings
            if mixing.name in self._originals
        }
        self.weights = 0

    def subnet(self, shard: Shard, graph: Network, samples: Mapping[str, Sample]) -> Shard:
        """The subnet of a shard's worker.

        Args:
            shard: as it is now.
            graph: ``widened``.
            samples: its samples among others.
        """
        numbers = {name: sample.numbers(shard.worker) for name, sample in samples.items()}
        sampled = {name: sample.of_workers[shard.worker] for name, sample in samples.items()}
        nothing = np.empty(0, np.int64)
        blocks = {}
        for mixing in shard.graph.mixings:
            ends = [shard.graph.space_of[tensor] for tensor in (mixing.target, mixing.source)]
            own, more = [shard.own[end] for end in ends], [sampled.get(end, nothing) for end in ends]
            blocks[mixing.name] = self._block(mixing, shard.blocks[mixing.name], own, more)
        all_neurons = {
            name: np.concatenate([own, numbers.get(name, nothing)]) for name, own in shard.own.items()
        }
        return replace(shard, graph=graph, own=all_neurons, blocks=blocks)

    def _block(
        self, mixing: Mixing, block: Block, own: Sequence[np.ndarray], more: Sequence[np.ndarray]
    ) -> Block:
        """A block with sampled neurons.

        Args:
            mixing: bare.
            block: of the worker.
            own: its neurons of the target and of the source, (m_q,) and (n_q,).
            more: likewise those that it has sampled.
        """
        (m, n), dtype = map(len, own), block.bias.dtype
        rows, columns = (np.concatenate(pair) for pair in zip(own, more, strict=True))
        weights = np.zeros((rows.size, columns.size, mixing.taps), dtype)
        bias = np.zeros(rows.size, dtype)
        if mixing.name in self._originals:
            original = self._originals[mixing.name]
            there = picked(original.weights, rows, column_numbers(columns, mixing.taps))
            weights[...] = dense(there).reshape(weights.shape)
            # What the plan allows is computed by it.
            weights[:m][self._allowed[mixing.name][np.ix_(own[0], columns)]] = 0
            bias[...] = original.bias[rows]
            self.weights += weights.size - m * n * mixing.taps + rows.size - m
        own_weights, ghost_weights, sum_weights = map(dense, weights_of(block))
        weights[:m, :n] = own_weights.reshape(m, n, mixing.taps)
        bias[:m] = block.bias
        wide = columns.size * mixing.taps
        return replace(
            block,
            own_weights=weights.reshape(rows.size, wide),
            ghost_weights=_padded(ghost_weights, (rows.size, ghost_weights.shape[1])),
            sum_weights=_padded(sum_weights, (len(sum_weights), wide)),
            bias=bias,
        )


def _padded(weights: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Weights with zeros behind and below them."""
    wide = np.zeros(shape, weights.dtype)
    wide[: weights.shape[0], : weights.shape[1]] = weights
    return wide
