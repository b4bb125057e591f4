"""torch.distributed over gloo, inside the ranks of MPI: its exchanges, and networks written with it.

Rank 0 opens a port on its machine, at which the ranks find each other.  Every rank has further threads that
send and receive.  On a single core they and the rank would wait for each other, so these threads are not
pinned.  The rank itself is, like all others: it is a little faster so.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mpi4py import MPI
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.parallel.style import ParallelStyle

from repurpose_hpc.bench.candidate import Candidate
from repurpose_hpc.bench.peers import torch_alone
from repurpose_hpc.bench.peers.bare_mpi import MakeExchange
from repurpose_hpc.bench.peers.numpy_alone import Layers
from repurpose_hpc.bench.turns import Conditions

# Of one tensor from every rank into one; torch renames it.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@contextmanager
def group(conditions: Conditions, comm: MPI.Comm) -> Iterator[None]:
    """A block with a process group of all ranks; collective.

    Args:
        conditions: in which its threads start: they keep the cores that it offers.
        comm: of the job.
    """
    machines = comm.allgather(MPI.Get_processor_name())
    host = "127.0.0.1" if len(set(machines)) == 1 else machines[0]
    if host == "127.0.0.1":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    port = None
    if comm.rank == 0:
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
    address = f"tcp://{host}:{comm.bcast(port, root=0)}"
    with conditions():
        dist.init_process_group("gloo", init_method=address, rank=comm.rank, world_size=comm.size)
    torch_alone.prepare()
    try:
        yield
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all ranks as gloo does, asleep.

    Ranks that wait in MPI keep their cores busy, and gloo's threads wait for a core: 4 ms instead of 0.14 for
    a gather of 64 bytes on two cores.
    """
    dist.barrier()


def all_gather(comm: MPI.Intracomm, send: np.ndarray, receive: np.ndarray) -> Callable[[], object]:
    """Every rank's first block to all; see ``bare_mpi`` for the arguments."""
    outgoing, incoming = torch.from_numpy(send[0]), torch.from_numpy(receive.reshape(-1))
    return lambda: _all_gather(incoming, outgoing)


def all_to_all(comm: MPI.Intracomm, send: np.ndarray, receive: np.ndarray) -> Callable[[], object]:
    """All blocks, that to itself included."""
    outgoing, incoming = (torch.from_numpy(blocks.reshape(-1)) for blocks in (send, receive))
    return lambda: dist.all_to_all_single(incoming, outgoing)


def send_receive(comm: MPI.Intracomm, send: np.ndarray, receive: np.ndarray) -> Callable[[], object]:
    """irecv and isend for every other rank."""
    others = [rank for rank in range(comm.size) if rank != comm.rank]
    outgoing, incoming = torch.from_numpy(send), torch.from_numpy(receive)

    def call() -> None:
        works = [dist.irecv(incoming[other], other) for other in others]
        works += [dist.isend(outgoing[other], other) for other in others]
        for work in works:
            if work is not None:  # so it is typed, for ranks outside the group
                work.wait()

    return call


EXCHANGES: dict[str, MakeExchange] = {
    "gloo_allgather": all_gather,
    "gloo_alltoall": all_to_all,
    "gloo_p2p": send_receive,
}


def network(rows: Layers, X: np.ndarray) -> Candidate:
    """Hand-written: a rank computes its rows of every layer, and all gather them before the next.

    Activations are (neurons, batch), so that what is gathered lies as the next product wants it.

    Args:
        rows: (W, b) of this rank's rows of each layer, the same number on all ranks.
        X: all inputs, (n, batch), read anew by every call.
    """
    vector = X.shape[1] == 1
    x = torch.from_numpy(X.reshape(-1) if vector else X)
    weights = [torch.from_numpy(W) for W, _ in rows]
    biases = [torch.from_numpy(b if vector else b[:, None]) for _, b in rows]
    outs = [torch.empty((len(W), *x.shape[1:]), dtype=x.dtype) for W in weights]
    buffers = [torch.empty((W.shape[1], *x.shape[1:]), dtype=x.dtype) for W in weights[1:]]
    multiply = torch.addmv if vector else torch.addmm

    def forward() -> torch.Tensor:
        y = x
        for W, b, out, gathered in zip(weights, biases, outs, [*buffers, None], strict=True):
            multiply(b, W, y, out=out)
            if gathered is not None:
                _all_gather(gathered, out.relu_())
                y = gathered
        return outs[-1]

    return Candidate(forward, lambda y: y.numpy().reshape(len(y), -1), barrier=barrier)


class ParallelChain:
    """DTensor: layers cut in turn by outputs (column-wise) and by inputs (row-wise, with an all-reduce).

    A whole input begins with a column-wise layer, and every rank has the whole output.  A partitioned one
    begins with a row-wise layer, which takes the blocks as they are, and ranks end with blocks of the output.

    Args:
        layers: (W, b), whole, on every rank, which keeps its parts; an even number.
        partitioned: whether rank q begins with block q of the input.
    """

    def __init__(self, layers: Layers, partitioned: bool) -> None:
        modules = [m for W, b in layers for m in (torch_alone.linear(W, b), torch.nn.ReLU())][:-1]
        self._partitioned = partitioned
        # The layers have even places.
        styles = (RowwiseParallel, ColwiseParallel) if partitioned else (ColwiseParallel, RowwiseParallel)
        places: dict[str, ParallelStyle] = {
            str(2 * index): styles[index % 2]() for index in range(len(layers))
        }
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        self._chain = parallelize_module(torch.nn.Sequential(*modules), mesh, places, src_data_rank=None)

    def network(self, X: np.ndarray) -> Candidate:
        """The chain on a batch X, (n, batch), of which a rank takes what it begins with."""
        block = np.array_split(X, dist.get_world_size())[dist.get_rank()] if self._partitioned else X
        x = torch.from_numpy(np.ascontiguousarray(block.T))

        def forward() -> torch.Tensor:
            y = self._chain(x)
            # The result may not have arrived yet.
            return y.wait() if hasattr(y, "wait") else y

        return Candidate(forward, torch_alone.samples_last, barrier=barrier)
