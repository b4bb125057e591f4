"""Blocks of weights in the file of a shard.

A mixing may be *tied* to a constant of the front: its weights are the table in which the front looks tokens
up.  The plan has that table, and the shards only say so; a worker cuts its block out of the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, get_type_hints

import h5py
import numpy as np

from repurpose_hpc.model.ends import Ends
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.model.weights import SparseWeights, Weights
from repurpose_hpc.plan.files.content import Content
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.shard import Block, Lists, MadeBlocks

# Attributes of blocks, in the order in which they are stored.
_ARRAYS = tuple(name for name, kind in get_type_hints(Block).items() if kind in (np.ndarray, Weights))
_SPARSE = tuple(field.name for field in fields(SparseWeights) if field.name != "shape")
_LISTS = tuple(name for name, kind in get_type_hints(Block).items() if kind is Lists)
# Of the group of sparse weights.
_SHAPE = "shape"
# Of the group of a tied mixing: the name of the constant.
_TIED = "tied"


def tied_mixings(network: Network) -> dict[str, str]:
    """The mixings that have the numbers of a constant of the front as weights, and its name."""
    front = network.ends.front
    constants = {} if front is None else front.constants
    return {
        mixing.name: name
        for mixing in network.mixings
        for name, array in constants.items()
        if not mixing.is_sparse and _is_same(array, mixing.W)
    }


def _is_same(array: np.ndarray, weights: np.ndarray) -> bool:
    if array is weights:
        return True
    return array.ndim == 2 and array.dtype == weights.dtype and np.array_equal(array, weights)


def write_blocks(group: h5py.Group, blocks: Mapping[str, Block], tied: Mapping[str, str]) -> None:
    """Store blocks in an empty group; of those that are tied the biases alone.

    Args:
        group: with tracked order.
        blocks: by mixing.
        tied: see ``tied_mixings``.
    """
    for name, block in blocks.items():
        _write(group.create_group(name), block, tied.get(name))


def _write(group: h5py.Group, block: Block, tied: str | None) -> None:
    if tied is not None:
        group.attrs[_TIED] = tied
        group["bias"] = block.bias
        return
    for name in _ARRAYS:
        array = getattr(block, name)
        if isinstance(array, SparseWeights):
            _write_sparse(group.create_group(name), array)
        else:
            group[name] = array
    for name in _LISTS:
        for part, values in vars(getattr(block, name)).items():
            group[f"{name}/{part}"] = values


def _write_sparse(group: h5py.Group, weights: SparseWeights) -> None:
    group.attrs[_SHAPE] = weights.shape
    for name in _SPARSE:
        group[name] = getattr(weights, name)


def has_sparse(group: h5py.Group) -> bool:
    """Whether any of the blocks that ``write_blocks`` stored has sparse weights."""
    return any(_SHAPE in part.attrs for block in group.values() for part in block.values())


class StoredBlocks(Mapping[str, Block]):
    """The blocks in the file of a shard; those that are tied are cut out whenever they are looked up.

    Args:
        content: of the file.
        graph, own, worker: of the shard.
        plan: that it belongs to.
        ends: of the model.

    Raises:
        ValueError, KeyError: the file is damaged.
    """

    def __init__(
        self,
        content: Content,
        graph: Network,
        own: dict[str, np.ndarray],
        worker: int,
        plan: Plan,
        ends: Ends,
    ) -> None:
        groups = content.file["blocks"]
        ties = {name: group.attrs[_TIED] for name, group in groups.items() if _TIED in group.attrs}
        self._graph, self._plan = graph, plan
        self._stored = {name: _parsed(content, group) for name, group in groups.items() if name not in ties}
        self._biases = {name: groups[name]["bias"][()] for name in ties}
        with_weights = {
            mixing.name: _tied(graph, mixing, ends, ties[mixing.name])
            for mixing in graph.mixings
            if mixing.name in ties
        }
        dtype = next((bias.dtype.type for bias in self._biases.values()), np.float32)
        self._tied = MadeBlocks(graph.with_mixings(with_weights), plan, own, worker, dtype)
        self._mixings = {mixing.name: mixing for mixing in graph.mixings}

    def __getitem__(self, name: str) -> Block:
        if name in self._biases:
            return replace(self._tied[name], bias=self._biases[name])
        graph, mixing = self._graph, self._mixings[name]
        return replace(
            self._stored[name],
            is_common=self._plan.is_common(graph, mixing),
            is_everywhere=self._plan.is_everywhere(graph, mixing),
            outliers=self._plan.outliers.get(mixing.source),
        )

    def __iter__(self) -> Iterator[str]:
        yield from self._stored
        yield from self._biases

    def __len__(self) -> int:
        return len(self._stored) + len(self._biases)


def _parsed(content: Content, group: h5py.Group) -> Block:
    parts: dict[str, Any] = {name: _weights(content, group[name]) for name in _ARRAYS}
    parts |= {name: _lists(group[name]) for name in _LISTS}
    return Block(**parts)


def _weights(content: Content, stored: h5py.Dataset | h5py.Group) -> Weights:
    """An array, or sparse weights.

    Raises:
        ValueError: such that no kernel may be given.
    """
    if isinstance(stored, h5py.Dataset):
        return content.array(stored)
    m, n = (int(size) for size in stored.attrs[_SHAPE])
    weights = SparseWeights((m, n), *(content.array(stored[name]) for name in _SPARSE))
    for fault in weights.faults():
        raise ValueError(f"its {stored.name} {fault}")
    return weights


def _lists(group: h5py.Group) -> Lists:
    return Lists(**{part: values[()] for part, values in group.items()})


def _tied(graph: Network, mixing: Mixing, ends: Ends, name: str) -> Mixing:
    """The mixing with the weights that a constant of the front is, and without a bias.

    Raises:
        ValueError: there is no such constant.
    """
    m, n = (graph.space(tensor).neurons for tensor in (mixing.target, mixing.source))
    table = None if ends.front is None else ends.front.constants.get(name)
    if table is None or table.shape != (m, n * mixing.taps):
        raise ValueError(f"its mixing {mixing.name} is tied to {name}, which the plan does not have")
    return replace(mixing, weights=table, bias=np.zeros(m, table.dtype))
