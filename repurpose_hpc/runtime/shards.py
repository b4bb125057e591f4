"""Shards as a run needs them, from those that were read or cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from repurpose_hpc.model.weights import values_of
from repurpose_hpc.plan.files.mapped import release
from repurpose_hpc.plan.shard import Block, Shard


def cast(shard: Shard, dtype: np.dtype) -> Shard:
    """``shard`` with all real numbers of ``dtype``; a block is cast whenever it is looked up."""
    return replace(shard, graph=shard.graph.astype(dtype.type), blocks=CastBlocks(shard.blocks, dtype))


def one_by_one(shard: Shard) -> Shard:
    """``shard`` with heads and ends of the model that are computed of every sample by itself."""
    ends = replace(shard.graph.ends, one_by_one=True)
    return replace(shard, graph=replace(shard.graph, ends=ends))


class CastBlocks(Mapping[str, Block]):
    """Blocks whose numbers are of another dtype, cast at every look-up; nothing is kept."""

    def __init__(self, blocks: Mapping[str, Block], dtype: np.dtype) -> None:
        self._blocks, self._dtype = blocks, dtype

    def __getitem__(self, mixing: str) -> Block:
        return _cast_block(self._blocks[mixing], self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)


def _cast_block(block: Block, dtype: np.dtype) -> Block:
    return replace(
        block,
        own_weights=_cast_array(block.own_weights, dtype),
        ghost_weights=_cast_array(block.ghost_weights, dtype),
        sum_weights=_cast_array(block.sum_weights, dtype),
        bias=_cast_array(block.bias, dtype),
    )


def _cast_array(array: Any, dtype: np.dtype) -> Any:
    """Weights, dense or sparse, or biases as ``dtype``; pages of a file that were copied do not stay."""
    if array.dtype == dtype:
        return array
    copy = array.astype(dtype)
    release(values_of(array))
    return copy
