"""Layers divided by Mt-KaHyPar (Gottesbüren, Heuer, Maas, Sanders, Schlag 2024), the extra ``hypergraph``."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from repurpose_hpc.restructure.owners.nets import Nets
from repurpose_hpc.restructure.owners.partition import Layer, LayerStart

PACKAGE = "mtkahypar"
# It takes whole numbers as weights: others are multiplied so that the largest is this.
LARGEST = 1000


def mt_kahypar_start(seed: int) -> LayerStart | None:
    """Layers divided by the package, deterministically; None if it is not installed.

    Args:
        seed: of the partitioner.
    """
    try:
        import mtkahypar
    except ImportError:
        return None

    def start(nets: Nets, by_vertex: csr_array, owner: np.ndarray, layer: Layer) -> np.ndarray:
        workers = np.flatnonzero(layer.capacity)
        if workers.size == 1:
            return np.full(layer.members.size, workers[0])
        block_of = np.full(len(layer.capacity), -1)
        block_of[workers] = np.arange(workers.size)
        pins, weights = _around(nets, by_vertex, owner, layer, block_of)
        blocks = _partition(mtkahypar, layer.members.size, pins, weights, layer.capacity[workers], seed)
        return workers[blocks]

    return start


def _around(
    nets: Nets, by_vertex: csr_array, owner: np.ndarray, layer: Layer, block_of: np.ndarray
) -> tuple[list[list[int]], list[int]]:
    """The nets of a layer and their weights: members from 0, then the blocks that own other vertices."""
    members, blocks = layer.members.size, int(block_of.max()) + 1
    # The number of every vertex; those that are open, or of workers without a block, have none.
    number = np.where(owner >= 0, block_of[owner], -1)
    number = np.where(number >= 0, members + number, -1)
    number[layer.members] = np.arange(members)
    touched = np.unique(by_vertex[layer.members].indices)
    pins = nets.pins[touched]
    net, vertex = np.repeat(np.arange(touched.size), np.diff(pins.indptr)), number[pins.indices]
    pairs = np.unique(net[vertex >= 0] * (members + blocks) + vertex[vertex >= 0])
    net, vertex = np.divmod(pairs, members + blocks)
    sizes = np.bincount(net, minlength=touched.size)
    lists = np.split(vertex, np.cumsum(sizes)[:-1]) if touched.size else []
    whole = _whole(nets.weights)[touched]
    kept = np.flatnonzero(sizes > 1)
    return [lists[k].tolist() for k in kept], whole[kept].tolist()


def _whole(weights: np.ndarray) -> np.ndarray:
    """Weights as whole numbers, 1 or more."""
    if (weights == np.rint(weights)).all():
        return weights.astype(np.int64)
    return np.maximum(np.rint(weights * (LARGEST / weights.max())), 1).astype(np.int64)


def _partition(
    mtkahypar: Any,
    members: int,
    nets: list[list[int]],
    weights: list[int],
    sizes: np.ndarray,
    seed: int,
) -> list[int]:
    """The block of each member.

    Args:
        mtkahypar: the package.
        members: vertices 0, 1 ...; after them one for each block, which is fixed to it.
        nets: vertices of each.
        weights: of the nets.
        sizes: the most members of each block.
        seed: of the partitioner.
    """
    blocks = len(sizes)
    mtkahypar.set_seed(seed)
    partitioner = mtkahypar.initialize(1, False)
    context = partitioner.context_from_preset(mtkahypar.PresetType.DETERMINISTIC)
    context.set_partitioning_parameters(blocks, 0.03, mtkahypar.Objective.KM1)
    # The vertex that stands for a worker takes a place in its part.
    context.set_individual_target_block_weights([int(size) + 1 for size in sizes])
    context.logging = False
    vertices = members + blocks
    hypergraph = partitioner.create_hypergraph(context, vertices, len(nets), nets, [1] * vertices, weights)
    hypergraph.add_fixed_vertices([-1] * members + list(range(blocks)), blocks)
    parts = hypergraph.partition(context)
    return [parts.block_id(member) for member in range(members)]
