"""Hosting: the workers of each rank, and the places of their neurons in the rank's arrays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import count
from repurpose_hpc.kernels import INDEX_DTYPE
from repurpose_hpc.model.network import Space
from repurpose_hpc.model.operations import Rows
from repurpose_hpc.plan.shard import Shard


def hosted_workers(workers: int, ranks: int, rank: int) -> range:
    """The workers that ``rank`` hosts: a contiguous share of them, at least one.

    Raises:
        UserError: there are more ranks than workers.
    """
    if ranks > workers:
        raise UserError(
            f"expected at most {count(workers, 'rank')}, one for each worker of the shards, found {ranks}; "
            f"start mpirun -n {workers} (or fewer), or restructure for {ranks} workers (or more)"
        )
    return range(rank * workers // ranks, (rank + 1) * workers // ranks)


class Hosting:
    """Places of the hosted workers' neurons.

    For each space a rank stacks the neurons that its workers hold, worker after worker, so
    that each worker's are contiguous rows.  (Columns of a replicated input that two workers
    need are there twice.)

    Attributes:
        rank: of this process.
        ranks: how many there are.
        workers: the hosted ones, ascending.
        rank_of: the rank that hosts each worker, (P,) int64.
    """

    def __init__(self, shards: Sequence[Shard], ranks: int, rank: int) -> None:
        """Raises ValueError if ``shards`` are not those of the workers that ``rank`` hosts."""
        hosted = [hosted_workers(shards[0].workers, ranks, number) for number in range(ranks)]
        self.rank, self.ranks = rank, ranks
        self.workers = [shard.worker for shard in shards]
        if self.workers != list(hosted[rank]):
            raise ValueError(f"rank {rank} hosts workers {list(hosted[rank])}, not {self.workers}")
        self.rank_of = np.repeat(np.arange(ranks), [len(workers) for workers in hosted])
        self._own = {space: [shard.own[space] for shard in shards] for space in shards[0].own}

    def neurons(self, space: str) -> np.ndarray:
        """The neuron in each row, int64."""
        return np.concatenate(self._own[space])

    def rows_of(self, space: Space) -> Rows:
        """The neuron and the worker of each row."""
        own = self._own[space.name]
        workers = np.repeat(self.workers, [neurons.size for neurons in own])
        return Rows(self.neurons(space.name), workers, space.neurons)

    def slices(self, space: str) -> list[slice]:
        """Each hosted worker's rows."""
        ends = np.cumsum([neurons.size for neurons in self._own[space]]).tolist()
        return [slice(start, end) for start, end in pairwise([0, *ends])]

    def rows(self, space: str, neurons: np.ndarray) -> np.ndarray:
        """The rows of ``neurons``, all of which the hosted workers own; ``INDEX_DTYPE``."""
        hosted = self.neurons(space)
        order = np.argsort(hosted)
        return order[np.searchsorted(hosted, neurons, sorter=order)].astype(INDEX_DTYPE)
