"""Loading of a rank's shards, and compiling of the kernels.

The root reads the plan and broadcasts it; each rank reads the files of its own workers.  Nothing else is sent
but the agreement on failures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.fields import count
from repurpose_hpc.kernels import warm_up
from repurpose_hpc.mpi.agreement import collectively
from repurpose_hpc.plan.files.store import StoredPlan, open_plan, read_shard
from repurpose_hpc.plan.shard import Shard
from repurpose_hpc.process.system import release_code
from repurpose_hpc.runtime.hosting import hosted_workers
from repurpose_hpc.runtime.shards import cast

if TYPE_CHECKING:
    from mpi4py import MPI


class LoadedShards(NamedTuple):
    """A plan, and the shards of the workers that this rank hosts."""

    stored: StoredPlan
    shards: list[Shard]


def load_shards(directory: Path, dtype: np.dtype | None, comm: MPI.Comm, groups: int = 1) -> LoadedShards:
    """The plan, and the shards of the workers that this rank hosts, their weights as ``dtype``; collective.

    The root reads the plan and broadcasts it; no rank opens another's shards.  Large arrays are mapped, and
    cast when a block is asked for.

    Args:
        directory: of the shards.
        dtype: of weights; None: that of the shards.
        comm: of the job.
        groups: of ranks in a row, as many in each, that all host all workers.

    Raises:
        SystemExit: on every rank, after a message: a file is missing, damaged or of another plan,
            or a group has more ranks than there are workers, or the network is one of tokens.
    """
    plan_of_root = None
    with collectively(comm):
        if comm.rank == 0:
            plan_of_root = open_plan(directory)
            plan_of_root.check_samples()
    stored: StoredPlan = comm.bcast(plan_of_root, root=0)
    shards: list[Shard] = []
    with collectively(comm):
        size, workers = comm.size // groups, stored.plan.workers
        if size > workers and groups > 1:
            raise UserError(
                f"expected at most {count(workers, 'rank')} in each of {groups} groups, one for each worker "
                f"of the shards, found {size}; take more groups, or start mpirun -n {workers * groups} (or "
                "fewer)"
            )
        hosted = hosted_workers(workers, size, comm.rank % size)
        for shard in (read_shard(stored, worker) for worker in hosted):
            shards.append(shard if dtype is None else cast(shard, dtype))
    return LoadedShards(stored, shards)


def compile_kernels(dtype: np.dtype, comm: MPI.Comm) -> None:
    """Compile all kernels of float networks, each by one rank of a node; collective.

    For what calls kernels by themselves; a program has those compiled that it calls.

    Args:
        dtype: of weights and values.
        comm: of the job.
    """
    with collectively(comm):
        warm_up(dtype, maps=True)
    release_compiler()


def release_compiler() -> None:
    """Let 50 MB of every process go, once the kernels are compiled."""
    release_code("libllvmlite")
