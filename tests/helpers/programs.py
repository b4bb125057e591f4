"""Programs on the ranks of this job, for the tests: made, run, and counted what they hand to MPI."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
from mpi4py import MPI

from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.runtime.exchange import transport
from repurpose_hpc.runtime.exchange.messages import mpi_types
from repurpose_hpc.runtime.hosting import hosted_workers
from repurpose_hpc.runtime.program import Program
from repurpose_hpc.runtime.schedule import mpi_functions as functions

COMM = MPI.COMM_WORLD


class Counts:
    """What was handed to MPI_Ialltoallv: values for each rank, bytes, messages, and calls."""

    def __init__(self):
        self.values = np.zeros(COMM.size, np.int64)
        self.bytes = self.messages = self.calls = 0

    def add(self, counts: np.ndarray, size: int) -> None:
        self.values += counts
        self.bytes += int(counts.sum()) * size
        self.messages += np.count_nonzero(counts)
        self.calls += 1


@contextmanager
def counting() -> Iterator[Counts]:
    """Programs whose schedules are made in here call MPI_Ialltoallv through a function that counts."""
    counts, real = Counts(), functions.function("MPI_Ialltoallv")
    sizes = {functions.handle(each): each.Get_size() for each in mpi_types()}
    kind = functions.prototype(real.signature)

    def count(*arguments: int) -> int:
        _, sent, _, datatype, *_ = arguments
        numbers = (ctypes.c_int * COMM.size).from_address(sent)
        counts.add(np.array(numbers), sizes[datatype])
        return kind(real.address)(*arguments)

    callback = kind(count)
    address = ctypes.cast(callback, ctypes.c_void_p).value
    counted = {real.name: functions.Function(real.name, address, real.signature)}
    with mock.patch.object(transport, "function", lambda name: counted.get(name) or functions.function(name)):
        yield counts


def make_program(
    network: Network, plan: Plan, max_batch: int, comm=COMM, dtype: type = np.float64, **options
) -> Program:
    """This rank's part of ``network``, for batches of up to ``max_batch`` samples."""
    hosted = hosted_workers(plan.workers, comm.size, comm.rank)
    return Program(
        [make_shard(network, plan, worker, dtype) for worker in hosted], comm, max_batch, **options
    )


def run_program(program: Program, network: Network, x: np.ndarray, comm=COMM) -> np.ndarray:
    """All outputs, on every rank: (samples, outputs); the batches are full but for the last."""
    columns = np.ascontiguousarray(x.T[program.input_columns], program.dtype)
    size = program.max_batch
    batches = [program.forward(columns[:, first : first + size]).copy() for first in range(0, len(x), size)]
    y = np.full((len(x), network.outputs), np.nan)
    for columns, rows in comm.allgather((program.output_columns, np.hstack(batches))):
        assert np.isnan(y[:, columns]).all()  # no output comes from two ranks
        y[:, columns] = rows.T
    return y
