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
from repurpose_hpc.bench.peers.bare_mpi import Way
from repurpose_hpc.bench.placement import Placement
from repurpose_hpc.bench.table import Table
from repurpose_hpc.bench.turns import in_turns, together
from repurpose_hpc.mpi.agreement import collectively
from repurpose_hpc.runtime.buffers import Part
from repurpose_hpc.runtime.exchange.exchange import Exchange, Sharing
from repurpose_hpc.runtime.exchange.messages import Carrier
from repurpose_hpc.runtime.exchange.transports.table import DEFAULT_WAY, SHARED, available
from repurpose_hpc.runtime.lowering.blocks import PHASES, Call
from repurpose_hpc.runtime.schedule.replay import Replay, carry_out, record
from repurpose_hpc.runtime.setting import EXACTLY

IN_A_ROW = 10
FLOAT = np.dtype(np.float32)


def run(
    sizes: tuple[int, ...], repeats: int, placement: Placement, peers: Peers, comm: MPI.Comm
) -> list[Table]:
    """Measure, printing every row as it comes; collective.

    Args:
        sizes: bytes from each rank to each other one.
        repeats: timed calls of each candidate.
        placement: of the ranks.
        peers: that there are.
        comm: of the job.
    """
    table = Table("exchange", "the exchange alone", "ours", speaks=comm.rank == 0)
    with gloo_group(peers, placement, comm) as gloo, ExitStack() as opened:
        gloo_ways = gloo.WAYS if gloo else {}
        own = {_name(way): partial(_ours, opened, way) for way in available(comm)}
        ways = {**own, **bare_mpi.WAYS, **gloo_ways}
        for name in [name for name, way in ways.items() if name not in own and not _works(way, comm)]:
            peers.leave_out(name, "this MPI library does not have it")
            del ways[name]
        for size in sizes:
            calls = {name: _checked(name, way, size // FLOAT.itemsize, comm) for name, way in ways.items()}
            meet = {name: gloo.barrier if name in gloo_ways else comm.Barrier for name in ways}
            turns = {
                name: together(partial(_in_a_row, call), comm, meet[name]) for name, call in calls.items()
            }
            spreads = {name: each.divided(IN_A_ROW) for name, each in in_turns(turns, repeats).items()}
            table.add({"bytes": size, "spreads": spreads})
            opened.close()
    return [table]


def _works(way: Way, comm: MPI.Comm) -> bool:
    """Whether the library offers it; the same library on all ranks gives all the same answer."""
    try:
        way(comm, *_blocks(1, comm))()
    except NotImplementedError:
        return False
    return True


def _name(way: str) -> str:
    """Of one of our own ways."""
    return "ours" if way == DEFAULT_WAY else f"ours_{way}"


def _checked(name: str, way: Way, values: int, comm: MPI.Comm) -> Callable[[], object]:
    """A call that exchanges ``values`` numbers per pair, after a look at what arrives."""
    send, receive = _blocks(values, comm)
    call = way(comm, send, receive)
    call()
    with collectively(comm):
        others = np.arange(comm.size) != comm.rank
        expected = np.stack([_message(rank, values) for rank in np.flatnonzero(others)])
        check(name, receive[others], expected, FLOAT)
    return call


def _ours(
    opened: ExitStack, way: str, comm: MPI.Comm, send: np.ndarray, receive: np.ndarray
) -> Callable[[], object]:
    """The exchange of programs as they make it, until ``opened`` is closed.

    What the first one brings is in ``receive`` as well.
    """
    values = send.shape[1]
    counts = np.full(comm.size, values)
    counts[comm.rank] = 0
    exchange = Exchange(comm, counts, counts, 1, FLOAT)
    opened.callback(exchange.free)
    if way == SHARED:
        opened.callback(Sharing([exchange], comm).free)
    exchange.send.flat[:] = np.delete(send, comm.rank, axis=0).reshape(-1)
    carrier = exchange.carrier(way, Part(1))
    steps = record([*carrier.begin, *carrier.post, *carrier.wait], FLOAT, EXACTLY)
    call = partial(_carry, carrier, steps, np.zeros(len(PHASES)))
    call()
    receive[np.arange(comm.size) != comm.rank] = exchange.receive.flat.reshape(-1, values)
    return call


def _carry(carrier: Carrier, steps: list[Call | Replay], seconds: np.ndarray) -> None:
    """One exchange; ``carrier`` is kept, as the steps have addresses of what it uses."""
    carry_out(steps, seconds)


def _blocks(values: int, comm: MPI.Comm) -> tuple[np.ndarray, np.ndarray]:
    """This rank's message for every rank, and room for theirs, (P, values) each."""
    return np.tile(_message(comm.rank, values), (comm.size, 1)), np.zeros((comm.size, values), FLOAT)


def _message(rank: int, values: int) -> np.ndarray:
    """What ``rank`` sends to everybody; small integers, which float32 has exactly."""
    return (rank + 1 + np.arange(values) % 1000).astype(FLOAT)


def _in_a_row(call: Callable[[], object]) -> None:
    for _ in range(IN_A_ROW):
        call()
