"""What a rank needs before it can run: its shards and the compiled kernels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from mpi4py import MPI

from repurpose_hpc import kernels
from repurpose_hpc.model.comm_dtype import CODES, code_dtype
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Elementwise, Mixing
from repurpose_hpc.mpi.agreement import collectively
from repurpose_hpc.plan.files.store import StoredPlan, read_plan, read_shard
from repurpose_hpc.plan.shard import Block, Shard
from repurpose_hpc.process.system import release_code
from repurpose_hpc.runtime.hosting import hosted_workers
from repurpose_hpc.runtime.setting import EXACTLY, Formats


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
    """``shard`` with all real numbers of ``dtype``."""
    blocks = {name: _cast_block(block, dtype) for name, block in shard.blocks.items()}
    return replace(shard, graph=shard.graph.astype(dtype), blocks=blocks)


def has_maps(graph: Network) -> bool:
    """Whether a network takes the kernels for feature maps."""
    return not all(
        isinstance(op, Elementwise) or (isinstance(op, Mixing) and op.window is None)
        for op in graph.operations
    )


def compile_kernels(
    dtype: np.dtype,
    maps: bool,
    comm: MPI.Comm,
    formats: Formats = EXACTLY,
    zeros: bool = False,
    threads: int = 1,
) -> None:
    """Compile the kernels on one rank of each node, for the caches of the others; collective.

    Args:
        dtype: of weights and values.
        maps: those of feature maps as well.
        comm: of the job.
        formats: of weights and ghosts.
        zeros: those that leave zeros out of messages as well.
        threads: of each rank.
    """
    stored = code_dtype(formats.weights, dtype)
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    for first in (True, False):
        with collectively(comm):
            if (node.rank == 0) is first:
                kernels.warm_up(dtype, maps, stored, CODES.get(formats.wire), zeros, threads > 1)
    node.Free()
    release_code("libllvmlite")  # 50 MB of every process, and the compiler is not needed any more


def _cast_block(block: Block, dtype: np.dtype) -> Block:
    names = ("own_weights", "ghost_weights", "sum_weights", "bias")
    return replace(block, **{name: getattr(block, name).astype(dtype, copy=False) for name in names})
