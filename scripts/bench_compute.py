"""Forwards of the dense network in parallel, and of restructured ones with less and less computation.

    mpirun -n 2 python scripts/bench_compute.py MODEL --calibration DATA [--input-placement replicated]
    mpirun -n 2 python scripts/bench_compute.py --width 4096 --layers 4

The ranks restructure together, once for each ``--compute-budget``, with one worker for each; all networks
then take turns.  Without MODEL: the random network and samples of ``bench_restructure.py``.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from bench_restructure import make_problem
from mpi4py import MPI

from repurpose_hpc.bench.placement import Placement
from repurpose_hpc.bench.table import BenchTable
from repurpose_hpc.bench.turns import REPEATS, in_turns, together
from repurpose_hpc.commands.parser import argument_type
from repurpose_hpc.fields import integer, listed, number
from repurpose_hpc.io.samples import Samples, open_samples
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.plan import PLACEMENTS, dense_plan
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.team import Team
from repurpose_hpc.runtime.loading import compile_kernels
from repurpose_hpc.runtime.program import Program

FLOAT = np.dtype(np.float32)
DENSE = "dense"
POSITIVE = argument_type(integer(1))


def main() -> None:
    """Print the table, on the root."""
    args, comm = parse(), MPI.COMM_WORLD
    Placement(comm)
    network, samples = problem(args)
    cuts = restructured(network, samples, args, comm)
    compile_kernels(FLOAT, comm)
    programs = {name: make_program(cut, max(args.batches), comm) for name, cut in cuts.items()}
    loads = {name: comm.allreduce(program.multiply_adds, MPI.MAX) for name, program in programs.items()}
    title = ", ".join(f"{name}: {load:,} multiply-adds of the busiest rank" for name, load in loads.items())
    table = BenchTable("compute", title, DENSE, speaks=comm.rank == 0)
    for batch in args.batches:
        x = np.random.default_rng(0).standard_normal((network.inputs, batch), np.float32)
        turns = {
            name: together(partial(program.forward, x[program.input_columns]), comm, comm.Barrier)
            for name, program in programs.items()
        }
        table.add({"batch": batch, "spreads": in_turns(turns, args.repeat)})


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    fractions = argument_type(listed(number(above=0, most=1), "fractions"))
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--calibration", type=Path, metavar="DATA")
    parser.add_argument("--width", type=POSITIVE, default=1024, metavar="N", help="of the random network")
    parser.add_argument("--layers", type=POSITIVE, default=4, metavar="N", help="of the random network")
    parser.add_argument("--input-placement", choices=PLACEMENTS, default="replicated")
    parser.add_argument("--comm-budget", type=float, default=0.05, metavar="F")
    parser.add_argument("--compute-budgets", type=fractions, default=(1.0, 0.5), metavar="F,F,...")
    batches = argument_type(listed(integer(1), "integers"))
    parser.add_argument("--batches", type=batches, default=(1, 64), metavar="B,B,...")
    parser.add_argument("--repeat", type=POSITIVE, default=REPEATS, metavar="N")
    return parser.parse_args()


def problem(args: argparse.Namespace) -> tuple[Network, Samples]:
    """The network and its calibration data; on every rank."""
    if args.model is not None:
        return load_model(args.model), open_samples(args.calibration)
    with tempfile.TemporaryDirectory() as folder:
        model, data = make_problem(Path(folder), args.width, args.layers)
        return load_model(model), Samples.of(np.load(data))


def restructured(
    network: Network, samples: Samples, args: argparse.Namespace, comm: MPI.Comm
) -> dict[str, Cut]:
    """The dense network in parallel and the restructured ones, by name; collective."""
    cuts = {DENSE: Cut(network, dense_plan(network, comm.size, args.input_placement, np.ones(comm.size)))}
    for budget in args.compute_budgets:
        options = Options(comm.size, args.comm_budget, args.input_placement, compute_budget=budget)
        cuts[f"{budget:g}"] = restructure(network, samples, options, team=Team(comm))
    return cuts


def make_program(cut: Cut, max_batch: int, comm: MPI.Comm) -> Program:
    """This rank's part of a network."""
    shards = [make_shard(cut.network, cut.plan, comm.rank, FLOAT.type)]
    return Program(shards, comm, max_batch)


if __name__ == "__main__":
    main()
