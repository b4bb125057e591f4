"""Forwards of one sample through networks that promises have found, beside modelled times.

    mpirun -n 2 python scripts/bench_minimise.py MODEL --test DATA --machine this \\
        --shards values time --out docs/results/minimise.csv

Every directory of shards, from ``restructure`` with as many workers as there are ranks, takes turns with the
dense network on all ranks and on one.  The test data only report.  Rows of other models stay in the file.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from mpi4py import MPI
from rows import markdown, read_csv, write_csv

from repurpose_hpc.bench.placement import Placement
from repurpose_hpc.bench.turns import REPEATS, in_turns, on_root, together
from repurpose_hpc.forecast.machine import THIS_FILE, read_machine
from repurpose_hpc.forecast.modelled import ModelledTime
from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.files.store import open_plan, read_network
from repurpose_hpc.plan.plan import REPLICATED, dense_plan, single_worker_plan
from repurpose_hpc.plan.rounds import rounds_of
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.restructure.cache import cache_directory
from repurpose_hpc.restructure.calibration.evaluation import compare
from repurpose_hpc.restructure.computation import compute_fraction
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.runtime.loading import compile_kernels
from repurpose_hpc.runtime.program import Program

FLOAT = np.dtype(np.float32)
SINGLE = "one process"
RUN = ("model", "ranks", "plan", "trials")
FOUND = ("values", "rounds", "computation", "modelled, µs", "median, µs", "accuracy")
NAMES = RUN + FOUND


def main() -> None:
    """Measure, and print the table on the root."""
    args, comm = parse(), MPI.COMM_WORLD
    Placement(comm)
    network = load_model(args.model)
    stored = {directory.name: open_plan(directory) for directory in args.shards}
    cuts = {
        SINGLE: Cut(network, single_worker_plan(network)),
        "dense": Cut(network, dense_plan(network, comm.size, REPLICATED, np.ones(comm.size))),
        **{name: Cut(read_network(shards), shards.plan) for name, shards in stored.items()},
    }
    compile_kernels(FLOAT, comm)
    spreads = in_turns({name: turn(name, cut, comm) for name, cut in cuts.items()}, args.repeat)
    if comm.rank > 0:
        return
    model = ModelledTime(read_machine(args.machine, cache_directory() / THIS_FILE))
    test = open_samples(args.test)
    rows = [row for row in read_csv(args.out) if row["model"] != args.model.stem]
    for name, cut in cuts.items():
        accuracy = compare(network, cut.network, test).findings()["accuracy"]
        trials = str(stored[name].provenance["promise"]["trials"]) if name in stored else ""
        cells = (
            *(args.model.stem, str(comm.size), name, trials),
            *described(network, cut),
            f"{1e6 * model.seconds(cut.network, cut.plan):.1f}",
            f"{spreads[name].median:.1f}",
            f"{accuracy:.4f}",
        )
        rows.append(dict(zip(NAMES, cells, strict=True)))
    write_csv(args.out, rows)
    print(markdown(NAMES, [[*row.values()] for row in rows]))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--test", type=Path, required=True, metavar="DATA")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--machine", required=True, metavar="FILE")
    parser.add_argument("--repeat", type=int, default=10 * REPEATS, metavar="N")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.csv")
    return parser.parse_args()


def turn(name: str, cut: Cut, comm: MPI.Comm):
    """The turn of a network, on all ranks or on the root alone."""
    is_single = name == SINGLE
    ranks = MPI.COMM_SELF if is_single else comm
    program = Program([make_shard(cut.network, cut.plan, ranks.rank, FLOAT.type)], ranks, 1)
    x = np.random.default_rng(0).standard_normal((cut.network.inputs, 1), np.float32)
    action = partial(program.forward, x[program.input_columns])
    return on_root(action, comm) if is_single else together(action, comm, comm.Barrier)


def described(network: Network, cut: Cut) -> tuple[str, str, str]:
    """Values per sample, rounds, and the computation of the busiest worker relative to its share."""
    fraction = compute_fraction(network, cut, Options(cut.plan.workers))
    return str(cut.traffic_matrix().sum()), str(rounds_of(cut.network, cut.plan)), f"{fraction:.2f}"


if __name__ == "__main__":
    main()
