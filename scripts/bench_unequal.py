"""Two ranks, one of them slowed by a busy neighbour: equal shares, measured shares, and the best of a scan.

    mpirun -n 2 python scripts/bench_unequal.py

Each rank is pinned to a core.  A process that does nothing but compute is pinned to that of the last rank,
which then has about half of it.  A network of two square layers is cut for several part weights:

- equal ones;
- those of ``--part-weights auto`` after ``probe`` has measured the ranks beside the neighbour;
- a scan;
- those that ``infer`` suggests after a run with equal ones, and after one with these.

All take turns.  A call is several forwards of one sample, so that it is longer than the scheduler's slices.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from bench_yield import SPIN
from mpi4py import MPI

from repurpose_hpc.bench.placement import Placement
from repurpose_hpc.bench.turns import Spread, in_turns, together
from repurpose_hpc.commands.parser import argument_type
from repurpose_hpc.fields import integer, shown
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.probe.links import measure_all
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.synthetic import cut_at_budget, random_network
from repurpose_hpc.runtime.balance import balance, part_weights
from repurpose_hpc.runtime.loading import compile_kernels
from repurpose_hpc.runtime.program import Program

FLOAT = np.dtype(np.float32)
LAYERS, BUDGET, FORWARDS = 2, 0.02, 10
# Part weight of the first rank; that of the second is the rest of 1.
SCANNED = tuple(percent / 100 for percent in range(40, 90, 5))
EQUAL, AUTO, SUGGESTED, AGAIN = "equal", "auto", "suggested", "suggested again"
POSITIVE = argument_type(integer(1))
HEAD = ("shares", "part weights", "load of rank 0", "a forward, µs", "over the best of the scan")


def main() -> None:
    """Print the table, on the root."""
    args = parse()
    comm = MPI.COMM_WORLD
    if comm.size != 2:
        sys.exit(f"expected 2 ranks, found {comm.size}; start mpirun -n 2")
    placement = Placement(comm)
    if placement.oversubscribed:
        sys.exit("expected a core for each rank, found fewer; give the job two cores of a machine")
    compile_kernels(FLOAT, comm)
    network = random_network(args.width, LAYERS, seed=0).astype(FLOAT.type)
    x = np.random.default_rng(0).standard_normal((args.width, 1), np.float32)
    with neighbour(comm.rank == comm.size - 1):
        weights, programs = candidates(network, x, comm)
        turns = {
            name: together(partial(several, program, x), comm, comm.Barrier)
            for name, program in programs.items()
        }
        spreads = in_turns(turns, args.repeat)
    loads = {name: comm.allgather(program.multiply_adds) for name, program in programs.items()}
    if comm.rank == 0:
        print("\n".join(table(weights, loads, spreads)))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=POSITIVE, default=4096, metavar="N", help="neurons of a layer")
    parser.add_argument("--repeat", type=POSITIVE, default=200, metavar="N", help="calls of each candidate")
    return parser.parse_args()


@contextmanager
def neighbour(here: bool) -> Iterator[None]:
    """A block with a process that computes without end on this rank's core, if it is to be here."""
    if not here:
        yield
        return
    spinning = subprocess.Popen([sys.executable, "-c", SPIN])  # pinned as this rank is
    try:
        yield
    finally:
        spinning.kill()
        spinning.wait()


def candidates(
    network: Network, x: np.ndarray, comm: MPI.Comm
) -> tuple[dict[str, tuple[float, ...]], dict[str, Program]]:
    """The part weights to compare, and this rank's programs for them; collective, beside the neighbour."""
    weights = {EQUAL: (1.0, 1.0), AUTO: part_weights(measure_all(comm), comm.size)}
    weights |= {f"scan {share:.2f}": (share, round(1 - share, 2)) for share in SCANNED}
    programs = {name: make_program(network, chosen, comm) for name, chosen in weights.items()}
    for before, name in ((EQUAL, SUGGESTED), (SUGGESTED, AGAIN)):
        weights[name] = suggestion(programs[before], x, comm)
        programs[name] = make_program(network, weights[name], comm)
    return weights, programs


def make_program(network: Network, weights: tuple[float, ...], comm: MPI.Comm) -> Program:
    """This rank's part of the network, cut for these part weights; collective."""
    cut, plan = cut_at_budget(network, Options(comm.size, BUDGET, part_weights=weights))
    return Program([make_shard(cut, plan, comm.rank, FLOAT.type)], comm)


def several(program: Program, x: np.ndarray) -> None:
    """FORWARDS forwards of a sample; collective."""
    mine = x[program.input_columns]
    for _ in range(FORWARDS):
        program.forward(mine)


def suggestion(program: Program, x: np.ndarray, comm: MPI.Comm, calls: int = 20) -> tuple[float, ...]:
    """The part weights that the report of ``infer`` would suggest after some calls; collective."""
    program.prepare(1)
    program.reset()
    for _ in range(calls):
        several(program, x)
    seconds = comm.allgather(program.seconds["compute"])
    found = balance(seconds, comm.allgather(program.multiply_adds), comm.size)
    return tuple(found["suggested_part_weights"])


def table(
    weights: dict[str, tuple[float, ...]], loads: dict[str, list[int]], spreads: dict[str, Spread]
) -> Iterator[str]:
    """The lines of the table."""
    best = min(spread.median for name, spread in spreads.items() if name.startswith("scan"))
    yield f"| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|"
    for name, spread in spreads.items():
        share = loads[name][0] / sum(loads[name])
        time = f"{spread.median / FORWARDS:,.0f} | {spread.median / best:.2f}"
        yield f"| {name} | {shown(weights[name])} | {share:.2f} | {time} |"


if __name__ == "__main__":
    main()
