"""Programs on the ranks of this job, for the tests: made, run, and counted what they hand to MPI."""

import numpy as np
from mpi4py import MPI

from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.runtime.hosting import hosted_workers
from repurpose_hpc.runtime.program import Program

COMM = MPI.COMM_WORLD


class CountingComm:
    """COMM_WORLD, adding up what is handed to Ialltoallv."""

    def __init__(self):
        self.rank, self.size = COMM.rank, COMM.size
        self.values = np.zeros(COMM.size, np.int64)
        self.bytes = 0
        self.messages = 0
        self.Allreduce = COMM.Allreduce

    def Ialltoallv(self, send, receive):
        counts = np.array(send[1])
        self.values += counts
        self.bytes += counts.sum() * send[3].Get_size()
        self.messages += np.count_nonzero(counts)
        return COMM.Ialltoallv(send, receive)


def make_program(
    network: Network, plan: Plan, max_batch: int, comm=COMM, dtype: type = np.float64
) -> Program:
    """This rank's part of ``network``, for batches of up to ``max_batch`` samples."""
    hosted = hosted_workers(plan.workers, comm.size, comm.rank)
    return Program([make_shard(network, plan, worker, dtype) for worker in hosted], comm, max_batch)


def run_program(program: Program, network: Network, x: np.ndarray) -> np.ndarray:
    """All outputs, on every rank: (samples, outputs); the batches are full but for the last."""
    columns = np.ascontiguousarray(x.T[program.input_columns], program.dtype)
    size = program._max_batch
    batches = [program.forward(columns[:, first : first + size]).copy() for first in range(0, len(x), size)]
    y = np.full((len(x), network.outputs), np.nan)
    for columns, rows in COMM.allgather((program.output_columns, np.hstack(batches))):
        assert np.isnan(y[:, columns]).all()  # no output comes from two ranks
        y[:, columns] = rows.T
    return y
