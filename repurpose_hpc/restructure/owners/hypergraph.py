"""Owners by hypergraph partitioning, the standard way to distribute a sparse matrix, as a baseline.

Column-net model (Catalyurek and Aykanat 1999): the vertices are the rows of a mixing, the nets its columns,
each with the rows that have one of the largest weights in it and, as a fixed vertex, the owner of
the column.  The connectivity minus one of all nets is then the number of neurons sent.
Partitioned by Mt-KaHyPar (extra ``hypergraph``), deterministically, or without it by ``partition``.

Where nothing is pruned, all mixings are partitioned together instead: see ``exact``.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.restructure.owners.mt_kahypar import mt_kahypar_start
from repurpose_hpc.restructure.owners.nets import Nets
from repurpose_hpc.restructure.owners.partition import Layer, Partitioner


def hypergraph_owners(
    weights: np.ndarray, source_owner: np.ndarray, capacity: np.ndarray, seed: int
) -> np.ndarray:
    """Owners of the rows of ``weights``.

    Args:
        weights: (m, n), zero or more; a fraction 1/P of them, the largest, makes up the hypergraph, or all
            that are not zero if these are fewer.
        source_owner: owners of the columns, (n,).
        capacity: the most rows of each worker, (P,).
        seed: of the partitioner.

    Returns:
        (m,) int32.
    """
    rows, workers = len(weights), len(capacity)
    nets = _nets(weights, source_owner, workers)
    # After the rows, a vertex that each worker owns.
    fixed = np.append(np.full(rows, EVERYBODY), np.arange(workers))
    layer = Layer(np.arange(rows), capacity)
    partitioner = Partitioner(nets, fixed, [layer], [], workers, seed)
    layer_start = mt_kahypar_start(seed)
    partitioner.start(layer_start)
    if layer_start is None:
        partitioner.refine()
    return partitioner.owner[:rows].astype(np.int32)


def _nets(weights: np.ndarray, source_owner: np.ndarray, workers: int) -> Nets:
    """The rows with a large weight in each column, and the vertex of the column's owner."""
    m, n = weights.shape
    large = (weights >= np.quantile(weights, 1 - 1 / workers)) & (weights > 0)
    columns, rows = np.nonzero(large.T)
    owned = np.flatnonzero(source_owner != EVERYBODY)
    columns = np.concatenate([columns, owned])
    vertices = np.concatenate([rows, m + source_owner[owned]])
    pins = csr_array((np.ones(vertices.size, bool), (columns, vertices)), (n, m + workers))
    joins = np.flatnonzero(np.diff(pins.indptr) > 1)
    return Nets(pins[joins], np.ones(joins.size))
