"""Four layers with bias and ReLU end to end: restructured and dense, beside what a user would take instead.

Every rank has the whole input (``replicated``), or rank q has block q of it (``partitioned``).  In the
project's programs, the loop around MPI_Allgather and the one around gloo's all_gather each rank ends with its
own part of the output.  The two loops gather the blocks of a partitioned input first, as part of the call.
DTensor ends with the whole output on every rank, unless the input is partitioned.  The single processes run
on the root while the other ranks sleep, and have the whole input.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
from mpi4py import MPI

from repurpose_hpc.bench.candidate import check
from repurpose_hpc.bench.entrants import (
    DENSE,
    RESTRUCTURED,
    SINGLE_RESTRUCTURED,
    Chain,
    Entrant,
    absent,
    on_all_ranks,
    single_processes,
)
from repurpose_hpc.bench.kernels import aligned
from repurpose_hpc.bench.options import InferenceOptions
from repurpose_hpc.bench.peers import Peers, gloo_group
from repurpose_hpc.bench.placement import Placement
from repurpose_hpc.bench.table import BenchTable
from repurpose_hpc.bench.turns import Spread, Turn, in_turns, on_root, together
from repurpose_hpc.fields import count
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.network import Network
from repurpose_hpc.mpi.agreement import collectively


def run(
    options: InferenceOptions, placement: Placement, peers: Peers, comm: MPI.Intracomm
) -> list[BenchTable]:
    """Measure, printing every row as it comes; collective.

    Args:
        options: ``widths``, ``batches``, ``comm_budget``, ``input_placement``, ``dtype`` and ``repeat``.
        placement: of the ranks.
        peers: that there are.
        comm: of the job.
    """
    conditions = f"input {options.input_placement}, {options.dtype}, {count(comm.size, 'rank')}"
    title = f"four layers (n, n) with bias and ReLU, {conditions}"
    table = BenchTable("inference", title, RESTRUCTURED, speaks=comm.rank == 0)
    with gloo_group(peers, placement, comm) as gloo:
        for width in options.widths:
            entrants = _entrants(width, options, placement, peers, gloo, comm)
            for batch in options.batches:
                X = aligned(_inputs(width, batch, options.dtype))
                spreads = in_turns(_checked_turns(entrants, X, comm), options.repeat)
                table.add(_row(width, batch, spreads, entrants, comm.size))
            del entrants  # room for those of the next width
    return [table]


def _entrants(
    width: int,
    options: InferenceOptions,
    placement: Placement,
    peers: Peers,
    gloo: ModuleType | None,
    comm: MPI.Intracomm,
) -> dict[str, Entrant]:
    """The entrants by name; the same names on all ranks."""
    chain = Chain(
        width,
        comm.size,
        options.comm_budget,
        max(options.batches),
        np.dtype(options.dtype),
        options.input_placement,
    )
    entrants, singles = on_all_ranks(chain, gloo, comm), {}
    with collectively(comm):
        if comm.rank == 0:
            singles = single_processes(chain, placement, peers)
    names = comm.bcast([(name, entrant.threads) for name, entrant in singles.items()], root=0)
    return entrants | {name: singles.get(name, Entrant(absent, None, threads)) for name, threads in names}


def _checked_turns(entrants: dict[str, Entrant], X: np.ndarray, comm: MPI.Intracomm) -> dict[str, Turn]:
    """The turns of all entrants on a batch, after a look at what they compute; collective."""
    references: dict[Network | None, np.ndarray] = {}
    with collectively(comm):
        if comm.rank == 0:
            networks = {entrant.network for entrant in entrants.values() if entrant.network is not None}
            references |= {network: forward(network, X.T).T for network in networks}
    turns = {}
    for name, entrant in entrants.items():
        turn = _turn_alone if entrant.threads else _turn_of_all
        turns[name] = turn(name, entrant, X, references.get(entrant.network), comm)
    return turns


def _turn_of_all(
    name: str, entrant: Entrant, X: np.ndarray, expected: np.ndarray | None, comm: MPI.Intracomm
) -> Turn:
    candidate = entrant.make(X)
    outputs = candidate.output(candidate.call())
    with collectively(comm):
        if expected is not None:
            check(name, outputs, expected, X.dtype)
    return together(candidate.call, comm, candidate.barrier or comm.Barrier)


def _turn_alone(
    name: str, entrant: Entrant, X: np.ndarray, expected: np.ndarray | None, comm: MPI.Intracomm
) -> Turn:
    with collectively(comm):
        if expected is None:
            return on_root(_no_call, comm)
        candidate = entrant.make(X)
        with candidate.conditions():
            check(name, candidate.output(candidate.call()), expected, X.dtype)
        return on_root(candidate.call, comm, candidate.conditions)


def _row(n: int, batch: int, spreads: dict[str, Spread], entrants: dict[str, Entrant], ranks: int) -> dict:
    """A row of the table; efficiencies are those of strong scaling, against a process with one thread.

    The best process is the best one of those with the network that was asked for.  The restructured network
    has fewer weights, for one process too: its own scaling is ``restructured_efficiency``.
    """
    us = {name: spread.median for name, spread in spreads.items()}
    singles = [name for name, entrant in entrants.items() if entrant.threads and name != SINGLE_RESTRUCTURED]
    best = min(singles, key=us.__getitem__)
    one_thread = min(us[name] for name in singles if entrants[name].threads == 1)
    return {
        "n": n,
        "batch": batch,
        "best_single": best,
        "best_single_ratio": round(us[best] / us[RESTRUCTURED], 3),
        "efficiency": round(one_thread / us[RESTRUCTURED] / ranks, 3),
        "restructured_efficiency": round(us[SINGLE_RESTRUCTURED] / us[RESTRUCTURED] / ranks, 3),
        "dense_efficiency": round(one_thread / us[DENSE] / ranks, 3),
        "spreads": spreads,
    }


def _no_call() -> None:
    """The call of ranks that take no part."""


def _inputs(width: int, batch: int, dtype: str) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((width, batch), np.float32).astype(dtype)
