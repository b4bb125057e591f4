"""Shards -> the restructured network that they were cut from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from repurpose_hpc.model.network import Elementwise, Mixing, Network, Space
from repurpose_hpc.plan.shard import Block, Shard


def assemble(shards: Sequence[Shard]) -> Network:
    """The whole restructured network.

    Args:
        shards: of every worker, in order.

    Returns:
        weights and biases of the dtype of the shards; what was pruned is zero.
    """
    first = shards[0]
    steps = zip(*(shard.steps for shard in shards), strict=True)
    return Network(
        spaces=tuple(Space(name, neurons) for name, neurons in first.sizes.items()),
        operations=tuple(
            step[0] if isinstance(step[0], Elementwise) else _assemble_mixing(shards, step) for step in steps
        ),
        space_of=dict(first.space_of),
        input=first.input,
        output=first.output,
        head=first.head,
    )


def _assemble_mixing(shards: Sequence[Shard], blocks: Sequence[Block]) -> Mixing:
    first = blocks[0]
    shape = shards[0].sizes[first.target_space], shards[0].sizes[first.source_space]
    weights = np.zeros(shape, first.own_weights.dtype)
    bias = np.zeros(shape[0], first.bias.dtype)
    for shard, block in zip(shards, blocks, strict=True):
        rows, columns = shard.own[block.target_space], shard.own[block.source_space]
        weights[np.ix_(rows, columns)] += block.own_weights
        # Ghosts are further columns, sums further rows; where they meet, all but one hold a zero.
        weights[np.ix_(rows, block.ghosts.received)] += block.ghost_weights
        weights[np.ix_(block.sums.sent, columns)] += block.sum_weights
        bias[rows] = block.bias
    return Mixing(first.name, first.source, first.target, weights, bias)
