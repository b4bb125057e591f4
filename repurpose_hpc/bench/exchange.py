"""The exchange alone: every rank sends as many values to every other one, and nobody computes.

Each call is IN_A_ROW exchanges one after the other, which keep the ranks in step; times are those of one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import numpy as np
from mpi4py import MPI

from repurpose_hpc.bench.candidate import check
from repurpose_hpc.bench.peers import Peers, bare_mpi, gloo_group
from repurpose_hpc.bench.peers.bare_mpi import MakeExchange
from repurpose_hpc.bench.placement import Placement
from repurpose_hpc.bench.table import BenchTable
from repurpose_hpc.bench.turns import in_turns, together
from repurpose_hpc.mpi.agreement import collectively
from repurpose_hpc.runtime.buffers import Part
from repurpose_hpc.runtime.calls import PHASES, Call
from repurpose_hpc.runtime.exchange.exchange import Exchange
from repurpose_hpc.runtime.exchange.messages import Request
from repurpose_hpc.runtime.exchange.transport import TRANSPORTS
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT, available
from repurpose_hpc.runtime.resources import EXACT_FORMATS
from repurpose_hpc.runtime.schedule.replay import Replay, carry_out, record

IN_A_ROW = 10
FLOAT = np.dtype(np.float32)


def run(
    sizes: tuple[int, ...], repeats: int, placement: Placement, peers: Peers, comm: MPI.Intracomm
) -> list[BenchTable]:
    """Measure, printing every row as it comes; collective.

    Args:
        sizes: bytes from each rank to each other one.
        repeats: timed calls of each candidate.
        placement: of the ranks.
        peers: that there are.
        comm: of the job.
    """
    table = BenchTable("exchange", "the exchange alone", "ours", speaks=comm.rank == 0)
    with gloo_group(peers, placement, comm) as gloo, ExitStack() as opened:
        gloo_exchanges = gloo.EXCHANGES if gloo else {}
        transports = {_name(transport): partial(_ours, opened, transport) for transport in available(comm)}
        exchanges = {**transports, **bare_mpi.EXCHANGES, **gloo_exchanges}
        for name in [
            name for name, make in exchanges.items() if name not in transports and not _works(make, comm)
        ]:
            peers.leave_out(name, "this MPI library does not have it")
            del exchanges[name]
        for size in sizes:
            calls = {
                name: _checked(name, make, size // FLOAT.itemsize, comm) for name, make in exchanges.items()
            }
            meet = {
                name: gloo.barrier if gloo and name in gloo_exchanges else comm.Barrier for name in exchanges
            }
            turns = {
                name: together(partial(_in_a_row, call), comm, meet[name]) for name, call in calls.items()
            }
            spreads = {name: spread.divided(IN_A_ROW) for name, spread in in_turns(turns, repeats).items()}
            table.add({"bytes": size, "spreads": spreads})
            opened.close()
    return [table]


def _works(make: MakeExchange, comm: MPI.Intracomm) -> bool:
    """True if the library offers it; the same library on all ranks gives all the same answer."""
    try:
        make(comm, *_blocks(1, comm))()
    except NotImplementedError:
        return False
    return True


def _name(transport: str) -> str:
    """The name of one of our own transports in the table."""
    return "ours" if transport == DEFAULT_TRANSPORT else f"ours_{transport}"


def _checked(name: str, make: MakeExchange, values: int, comm: MPI.Intracomm) -> Callable[[], object]:
    """A call that exchanges ``values`` numbers per pair, after a look at what arrives."""
    send, receive = _blocks(values, comm)
    call = make(comm, send, receive)
    call()
    with collectively(comm):
        is_peer = np.arange(comm.size) != comm.rank
        expected = np.stack([_message(rank, values) for rank in np.flatnonzero(is_peer).tolist()])
        check(name, receive[is_peer], expected, FLOAT)
    return call


def _ours(
    opened: ExitStack, name: str, comm: MPI.Intracomm, send: np.ndarray, receive: np.ndarray
) -> Callable[[], object]:
    """The exchange of programs as they make it, until ``opened`` is closed.

    What the first one brings is in ``receive`` as well.
    """
    values = send.shape[1]
    counts = np.full(comm.size, values)
    counts[comm.rank] = 0
    exchange = Exchange(counts, counts, 1, FLOAT)
    transport = TRANSPORTS[name]([exchange], comm)
    opened.callback(transport.free)
    exchange.send.flat[:] = np.delete(send, comm.rank, axis=0).reshape(-1)
    request = transport.request(exchange, Part(1))
    steps = record([*request.begin, *request.post, *request.wait], FLOAT, EXACT_FORMATS)
    call = partial(_carry, request, steps, np.zeros(len(PHASES)))
    call()
    receive[np.arange(comm.size) != comm.rank] = exchange.receive.flat.reshape(-1, values)
    return call


def _carry(request: Request, steps: list[Call | Replay], seconds: np.ndarray) -> None:
    """One exchange; ``request`` is kept, as the steps have addresses of what it uses."""
    carry_out(steps, seconds)


def _blocks(values: int, comm: MPI.Intracomm) -> tuple[np.ndarray, np.ndarray]:
    """This rank's message for every rank, and room for theirs, (P, values) each."""
    return np.tile(_message(comm.rank, values), (comm.size, 1)), np.zeros((comm.size, values), FLOAT)


def _message(rank: int, values: int) -> np.ndarray:
    """The message of ``rank`` to everybody; small integers, which float32 has exactly."""
    return (rank + 1 + np.arange(values) % 1000).astype(FLOAT)


def _in_a_row(call: Callable[[], object]) -> None:
    for _ in range(IN_A_ROW):
        call()
