"""Transports of exchanges, and micro-batches, where the network decides.

    scripts/rehearse.sh 2 100mbit mpirun -n 2 python scripts/bench_overlap.py

The network of ``python -m repurpose_hpc bench inference``: four layers (n, n) with bias and ReLU, random
weights, cut at a budget.  A column of the first table is a transport with a number of parts, ``NAME_PARTS``;
all take turns.  The second table has what the root handed to MPI per sample, and how long the slowest rank
computed and waited, in a last series of forwards.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from mpi4py import MPI

from repurpose_hpc.bench.entrants import Chain
from repurpose_hpc.bench.placement import Placement
from repurpose_hpc.bench.table import BenchTable
from repurpose_hpc.bench.turns import REPEATS, in_turns, together
from repurpose_hpc.commands.parser import argument_type
from repurpose_hpc.fields import integer, listed
from repurpose_hpc.plan.plan import REPLICATED
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT, available
from repurpose_hpc.runtime.program import Program
from repurpose_hpc.runtime.timing import measure

FLOAT = np.dtype(np.float32)
PHASE_REPEATS = 10
POSITIVE = argument_type(integer(1))
INTEGERS = argument_type(listed(integer(1), "integers"))


def main() -> None:
    """Print the tables, on the root."""
    args = parse()
    comm = MPI.COMM_WORLD
    Placement(comm)
    chain = Chain(args.width, comm.size, args.comm_budget, max(args.batches), FLOAT, REPLICATED)
    chosen = args.transports.split(",") if args.transports else available(comm)
    programs = {
        f"{transport}_{parts}": make_program(chain, transport, parts, comm)
        for transport in available(comm)
        if transport in chosen
        for parts in args.parts
    }
    base = next((name for name in programs if name.startswith(DEFAULT_TRANSPORT)), next(iter(programs)))
    title = f"{args.width} neurons, {comm.size} ranks, {args.comm_budget:g} of the ghosts"
    table = BenchTable("overlap", title, base, speaks=comm.rank == 0)
    phases = []
    for batch in args.batches:
        inputs = np.random.default_rng(0).standard_normal((args.width, batch), np.float32)
        batches = {name: inputs[program.input_columns] for name, program in programs.items()}
        turns = {
            name: together(partial(program.forward, batches[name]), comm, comm.Barrier)
            for name, program in programs.items()
        }
        table.add({"batch": batch, "spreads": in_turns(turns, args.repeat)})
        phases += [phase_line(batch, name, programs[name], batches[name], comm) for name in programs]
    if comm.rank == 0:
        print("\nbatch  name_parts     bytes per sample  compute us  exchange us  wait us", *phases, sep="\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=POSITIVE, default=2048, metavar="N")
    parser.add_argument("--batches", type=INTEGERS, default=(1, 256), metavar="B,B,...")
    parser.add_argument("--parts", type=INTEGERS, default=(1, 2, 4), metavar="N,N,...")
    parser.add_argument(
        "--transports", metavar="NAME,NAME,...", help="those of these that there are (default: all)"
    )
    parser.add_argument("--comm-budget", type=float, default=0.05, metavar="F")
    parser.add_argument("--repeat", type=POSITIVE, default=REPEATS, metavar="N")
    return parser.parse_args()


def make_program(chain: Chain, transport: str, parts: int, comm: MPI.Comm) -> Program:
    """This rank's part of the network that is cut."""
    shards = [make_shard(chain.cut, chain.cut_plan, comm.rank, FLOAT.type)]
    return Program(shards, comm, chain.max_batch, transport=transport, micro_batches=parts)


def phase_line(batch: int, name: str, program: Program, x: np.ndarray, comm: MPI.Comm) -> str | None:
    """A line of the second table, on the root."""
    program.reset()
    program.forward(x)
    sent = program.sent_bytes_per_sample
    timing = measure(program, x, PHASE_REPEATS, comm)
    if timing is None:
        return None
    us, sent = timing.phases_us(), program.bytes_sent if sent is None else sent
    times = f"{us['compute']:>11,.0f}{us['exchange']:>13,.0f}{us['wait']:>9,.0f}"
    return f"{batch:>5}  {name:<15}{sent:>16,.0f}{times}"


if __name__ == "__main__":
    main()
