"""Loading of a rank's shards, and compiling of the kernels.

The root reads the plan and broadcasts it; each rank reads the files of its own workers.  One rank of each
node compiles, while the others wait; nothing is sent but the agreement on failures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from repurpose_hpc.kernels import warm_up
from repurpose_hpc.model.comm_dtype import CODES, code_dtype
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Elementwise, Mixing
from repurpose_hpc.mpi.agreement import collectively
from repurpose_hpc.plan.files.store import StoredPlan, open_plan, read_shard
from repurpose_hpc.plan.shard import Shard
from repurpose_hpc.process.system import release_code
from repurpose_hpc.runtime.hosting import hosted_workers
from repurpose_hpc.runtime.resources import EXACT_FORMATS, Formats
from repurpose_hpc.runtime.shards import cast

if TYPE_CHECKING:
    from mpi4py import MPI


class LoadedShards(NamedTuple):
    """A plan, and the shards of the workers that this rank hosts."""

    stored: StoredPlan
    shards: list[Shard]


def load_shards(directory: Path, dtype: np.dtype, comm: MPI.Comm) -> LoadedShards:
    """The plan, and the shards of the workers that this rank hosts, their weights as ``dtype``; collective.

    The root reads the plan and broadcasts it; no rank opens another's shards.  Large arrays are mapped, and
    cast when a block is asked for.

    Raises:
        SystemExit: on every rank, after a message: a file is missing, damaged or of another plan,
            or there are more ranks than workers.
    """
    plan_of_root = None
    with collectively(comm):
        if comm.rank == 0:
            plan_of_root = open_plan(directory)
    stored: StoredPlan = comm.bcast(plan_of_root, root=0)
    shards: list[Shard] = []
    with collectively(comm):
        hosted = hosted_workers(stored.plan.workers, comm.size, comm.rank)
        shards += [cast(read_shard(stored, worker), dtype) for worker in hosted]
    return LoadedShards(stored, shards)


def has_maps(graph: Network) -> bool:
    """Tell whether a network takes the kernels for feature maps."""
    return not all(
        isinstance(op, Elementwise) or (isinstance(op, Mixing) and op.window is None)
        for op in graph.operations
    )


def compile_kernels(
    dtype: np.dtype,
    maps: bool,
    comm: MPI.Comm,
    formats: Formats = EXACT_FORMATS,
    zeros: bool = False,
    threads: int = 1,
    deterministic: bool = False,
) -> None:
    """Compile the kernels on one rank of each node, for the caches of the others; collective.

    Args:
        dtype: of weights and values.
        maps: those of feature maps as well.
        comm: of the job.
        formats: of weights and ghosts.
        zeros: those that leave zeros out of messages as well.
        threads: of each rank.
        deterministic: those of deterministic programs as well.
    """
    from mpi4py import MPI

    stored = code_dtype(formats.weights_dtype, dtype)
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    for compiles in (True, False):
        with collectively(comm):
            if (node.rank == 0) is compiles:
                codes = CODES.get(formats.comm_dtype)
                warm_up(dtype, maps, stored, codes, zeros, threads > 1, deterministic)
    node.Free()
    release_code("libllvmlite")  # 50 MB of every process, and the compiler is not needed any more
