"""Calls of kernels whose rows the threads of a rank share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numba

from repurpose_hpc.fields import FieldError
from repurpose_hpc.kernels.registry import REGISTRY
from repurpose_hpc.mpi.hosts import cores_per_rank
from repurpose_hpc.process import openblas
from repurpose_hpc.runtime.calls import Call

if TYPE_CHECKING:
    from mpi4py import MPI

# Multiplications below which starting the threads takes longer than they save.
LEAST_WORK = 100_000


def check_threads(threads: int, comm: MPI.Comm) -> None:
    """Refuse more threads than there are cores for; collective, all ranks with the same ``threads``.

    Raises:
        FieldError: on all ranks: on some machine there are fewer cores for each rank.
    """
    if threads == 1:
        return
    from mpi4py import MPI

    launched = numba.config.NUMBA_NUM_THREADS
    limit = max(1, min(cores_per_rank(comm), comm.allreduce(launched, MPI.MIN)))
    if threads > limit:
        raise FieldError(
            "threads",
            f"expected at most {limit}, the cores that there are for each rank, got {threads}; start fewer "
            "ranks, or give each more cores: mpirun --map-by slot:pe=N (Open MPI), mpirun -bind-to none "
            "(MPICH), srun --cpus-per-task=N",
        )


def use_threads(threads: int) -> None:
    """Let NumPy's products use as many threads as kernels do, and wake no more of Numba's than these.

    The rows of kernels are shared by ``on_threads``; patches are still multiplied by OpenBLAS.
    """
    numba.set_num_threads(threads)
    write = openblas.function("openblas_set_num_threads")
    if write is not None:
        write(threads)


def on_threads(calls: Iterable[Call], threads: int) -> list[Call]:
    """The same calls, those with enough work for several threads made by all of them."""
    return [_shared(call, threads) for call in calls] if threads > 1 else list(calls)


def _shared(call: Call, threads: int) -> Call:
    phase, function, arguments = call
    variant = REGISTRY.variant(function)
    if variant is None:
        return call
    work, extra = variant.share(threads, *arguments)
    return call if work < LEAST_WORK else (phase, variant.function, (*arguments, *extra))
