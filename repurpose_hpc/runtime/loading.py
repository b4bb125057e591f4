"""What a rank needs before it can run: its shards and the compiled kernels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from mpi4py import MPI

from repurpose_hpc import kernels
from repurpose_hpc.model.network import Elementwise
from repurpose_hpc.plan.files import StoredPlan, read_plan, read_shard
from repurpose_hpc.plan.shard import Block, Shard
from repurpose_hpc.runtime.agreement import collectively
from repurpose_hpc.runtime.hosting import hosted_workers


def load_shards(directory: Path, dtype: np.dtype, comm: MPI.Comm) -> tuple[StoredPlan, list[Shard]]:
    """The plan, and the shards of the workers that this rank hosts, their weights as ``dtype``; collective.

    The root reads the plan and broadcasts it; no rank opens another's shards.

    Raises:
        SystemExit: on every rank, after a message: a file is missing, damaged or of another plan,
            or there are more ranks than workers.
    """
    stored = None
    with collectively(comm):
        if comm.rank == 0:
            stored = read_plan(directory)
    stored = comm.bcast(stored, root=0)
    with collectively(comm):
        hosted = hosted_workers(stored.plan.workers, comm.size, comm.rank)
        shards = [cast(read_shard(stored, worker), dtype) for worker in hosted]
    return stored, shards


def cast(shard: Shard, dtype: np.dtype) -> Shard:
    """``shard`` with weights and biases of ``dtype``."""
    return replace(shard, steps=tuple(_cast_step(step, dtype) for step in shard.steps))


def warm_up(dtype: np.dtype, comm: MPI.Comm) -> None:
    """Compile the kernels on one rank of each node; the others then find them in the cache; collective."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    for first in (True, False):
        with collectively(comm):
            if (node.rank == 0) is first:
                kernels.warm_up(dtype)
    node.Free()


def _cast_step(step: Block | Elementwise, dtype: np.dtype) -> Block | Elementwise:
    if isinstance(step, Elementwise):
        return step
    names = ("own_weights", "ghost_weights", "sum_weights", "bias")
    return replace(step, **{name: getattr(step, name).astype(dtype, copy=False) for name in names})
