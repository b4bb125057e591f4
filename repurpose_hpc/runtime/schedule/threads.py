"""Calls of kernels whose rows the threads of a rank share."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numba
import numpy as np
from mpi4py import MPI

from repurpose_hpc.fields import FieldError
from repurpose_hpc.kernels import aligned, convolve_direct, csr_batch, csr_vector, dense
from repurpose_hpc.kernels.dense import tiles_size
from repurpose_hpc.kernels.parallel import (
    convolve_threads,
    csr_threads,
    dense_threads,
    row_shares,
)
from repurpose_hpc.mpi.hosts import cores_per_rank
from repurpose_hpc.process import openblas
from repurpose_hpc.runtime.lowering.blocks import Call

# Multiplications below which starting the threads takes longer than they save.
LEAST_WORK = 100_000


def check_threads(threads: int, comm: MPI.Comm) -> None:
    """Refuse more threads than there are cores for; collective, all ranks with the same ``threads``.

    Raises:
        FieldError: on all ranks: on some machine there are fewer cores for each rank.
    """
    if threads == 1:
        return
    most = max(1, min(cores_per_rank(comm), comm.allreduce(numba.config.NUMBA_NUM_THREADS, MPI.MIN)))
    if threads > most:
        raise FieldError(
            "threads",
            f"expected at most {most}, the cores that there are for each rank, got {threads}; start fewer "
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
    if function not in _MAKERS:
        return call
    work, made = _MAKERS[function](threads, *arguments)
    return call if work < LEAST_WORK else (phase, *made)


# From the threads and the arguments of a kernel: its multiplications, and what does the same with threads.
def _dense(threads: int, panels: np.ndarray, scales: np.ndarray, X: np.ndarray, *rest: object) -> tuple:
    batch = X.shape[1]
    shares = row_shares(np.arange(len(panels) + 1), threads)
    tiles = aligned((threads, tiles_size(batch, panels.shape[2])), X.dtype)
    return panels.size * batch, (dense_threads, (panels, scales, X, *rest, shares, tiles))


def _csr(
    threads: int, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, X: np.ndarray, *rest: object
) -> tuple:
    columns = X.size // max(1, len(X))
    return data.size * columns, (csr_threads, (data, indices, indptr, X, *rest, row_shares(indptr, threads)))


def _convolution(threads: int, weights: np.ndarray, *rest: object) -> tuple:
    *_, out, _code, _alpha, _beta = rest
    positions = out.size // max(1, len(out))
    shares = row_shares(np.arange(len(weights) + 1), threads)
    return weights.size * positions, (convolve_threads, (weights, *rest, shares))


_MAKERS: dict[Callable, Callable[..., tuple]] = {
    dense: _dense,
    csr_vector: _csr,
    csr_batch: _csr,
    convolve_direct: _convolution,
}
