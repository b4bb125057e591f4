"""Owners by hypergraph partitioning, the standard way to distribute a sparse matrix, as a baseline.

Column-net model (Catalyurek and Aykanat 1999): the vertices are the rows of a mixing, the nets its columns,
each with the rows that have one of the largest weights in it and, as a fixed vertex, the owner of
the column.  The connectivity minus one of all nets is then the number of neurons sent.
Partitioned with Mt-KaHyPar (extra ``hypergraph``), deterministically.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from repurpose_hpc.fields import FieldError
from repurpose_hpc.plan.masks import EVERYBODY


def hypergraph_owners(
    weights: np.ndarray, source_owner: np.ndarray, capacity: np.ndarray, seed: int
) -> np.ndarray:
    """Owners of the rows of ``weights``.

    Args:
        weights: (m, n); a fraction 1/P of them, the largest, makes up the hypergraph.
        source_owner: owners of the columns, (n,).
        capacity: the most rows of each worker, (P,).
        seed: of the partitioner.

    Returns:
        (m,) int32.

    Raises:
        FieldError: Mt-KaHyPar is not installed.
    """
    partitioner = _import_partitioner()
    workers = np.flatnonzero(capacity > 0)
    if len(workers) == 1:
        return np.full(len(weights), workers[0], np.int32)
    block_of = np.full(len(capacity), -1)
    block_of[workers] = np.arange(len(workers))
    nets = _nets(weights, source_owner, block_of, len(capacity))
    blocks = _partition(partitioner, len(weights), nets, capacity[workers], seed)
    return workers[blocks].astype(np.int32)


def _import_partitioner() -> Any:
    try:
        import mtkahypar
    except ImportError:
        raise FieldError(
            "assignment",
            "expected the package mtkahypar for hypergraph, found none; "
            "pip install 'repurpose-hpc[hypergraph]'",
        ) from None
    return mtkahypar


def _partition(mtkahypar: Any, rows: int, nets: list[list[int]], sizes: np.ndarray, seed: int) -> list[int]:
    """The block of each row.

    Args:
        mtkahypar: the package.
        rows: vertices 0, 1 ...; after them one for each block, which is fixed to it.
        nets: vertices of each.
        sizes: the most rows of each block.
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
    hypergraph = partitioner.create_hypergraph(context, rows + blocks, len(nets), nets)
    hypergraph.add_fixed_vertices([-1] * rows + list(range(blocks)), blocks)
    parts = hypergraph.partition(context)
    return [parts.block_id(row) for row in range(rows)]


def _nets(
    weights: np.ndarray, source_owner: np.ndarray, block_of: np.ndarray, workers: int
) -> list[list[int]]:
    """The rows with a large weight in each column, and the vertex of the column's owner."""
    m, sizes = len(weights), np.abs(weights)
    large = sizes >= np.quantile(sizes, 1 - 1 / workers)
    nets = []
    for column, owner in zip(large.T, source_owner, strict=True):
        net = np.flatnonzero(column).tolist()
        if owner != EVERYBODY and block_of[owner] >= 0:
            net.append(m + int(block_of[owner]))
        if len(net) > 1:
            nets.append(net)
    return nets
