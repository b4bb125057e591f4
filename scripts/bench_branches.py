"""Measure programs whose parallel branches have merged exchanges, and exchanges of their own.

    mpirun -n 2 python scripts/bench_branches.py

Modules one after the other; a module is branches side by side, each of two dense layers with bias and ReLU,
whose outputs are read together by the next one.  Random weights; of the ghosts of a tensor a random part
stays, the same for all that read it.  ``merged_NAME`` is what programs do with a transport: in a round, one
message for each pair of ranks.  ``apart_NAME`` has the same rounds and a message for every tensor.  All take
turns.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from unittest import mock

import numpy as np
from mpi4py import MPI

from repurpose_hpc.bench.placement import Placement
from repurpose_hpc.bench.table import BenchTable
from repurpose_hpc.bench.turns import REPEATS, in_turns, together
from repurpose_hpc.commands.parser import argument_type
from repurpose_hpc.fields import integer, listed
from repurpose_hpc.model.activations import RELU
from repurpose_hpc.model.builder import Builder
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.masks import EVERYBODY, MixingPlan
from repurpose_hpc.plan.plan import REPLICATED, Plan, dense_plan
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT, available
from repurpose_hpc.runtime.program import Program
from repurpose_hpc.runtime.schedule import rounds

POSITIVE = argument_type(integer(1))
INTEGERS = argument_type(listed(integer(1), "integers"))
SEED = 0


def main() -> None:
    """Print the table, on the root."""
    args = parse()
    comm = MPI.COMM_WORLD
    Placement(comm)
    network, plan = cut(branched(args.modules, args.branches, args.width), comm.size, args.comm_budget)
    programs = {}
    for name in [name for name in available(comm) if name in args.transports.split(",")]:
        programs[f"merged_{name}"] = make_program(network, plan, name, max(args.batches), comm)
        with mock.patch.object(rounds, "merge", lambda exchanges, max_batch: exchanges):
            programs[f"apart_{name}"] = make_program(network, plan, name, max(args.batches), comm)
    base = next(iter(programs))
    messages = [comm.reduce(program.messages) for program in programs.values()]
    if comm.rank == 0:
        print(f"messages of all ranks per forward: {messages[0]} merged, {messages[1]} apart")
    title = f"{args.modules} modules of {args.branches} branches of {args.width} neurons, {comm.size} ranks"
    table = BenchTable("branches", title, base, speaks=comm.rank == 0)
    for batch in args.batches:
        inputs = np.random.default_rng(SEED).standard_normal((network.inputs, batch), np.float32)
        turns = {
            name: together(partial(program.forward, inputs[program.input_columns]), comm, comm.Barrier)
            for name, program in programs.items()
        }
        table.add({"batch": batch, "spreads": in_turns(turns, args.repeat)})


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--modules", type=POSITIVE, default=4, metavar="N")
    parser.add_argument("--branches", type=POSITIVE, default=4, metavar="N")
    parser.add_argument("--width", type=POSITIVE, default=64, metavar="N", help="neurons of a branch")
    parser.add_argument("--batches", type=INTEGERS, default=(1, 64), metavar="B,B,...")
    parser.add_argument("--transports", default=DEFAULT_TRANSPORT, metavar="NAME,NAME,...")
    parser.add_argument("--comm-budget", type=float, default=0.05, metavar="F")
    parser.add_argument("--repeat", type=POSITIVE, default=REPEATS, metavar="N")
    return parser.parse_args()


def branched(modules: int, branches: int, width: int) -> Network:
    """Modules of branches with random weights."""
    builder, draw = Builder(), np.random.default_rng(SEED)
    neurons = branches * width

    def layer(name: str, source: str) -> str:
        columns = builder.neurons(source)
        weights = draw.standard_normal((width, columns), np.float32) * np.float32(np.sqrt(2 / columns))
        target = builder.mixing(name, source, weights, draw.standard_normal(width, np.float32))
        return builder.elementwise(f"{name}.a", target, RELU)

    tensor = builder.input("input", neurons)
    for module in range(modules):
        names = [f"m{module}.{branch}" for branch in range(branches)]
        outputs = tuple(layer(f"{name}.second", layer(f"{name}.first", tensor)) for name in names)
        tensor = builder.select(f"m{module}", outputs, np.arange(neurons))
    return builder.build((tensor,), ("identity",))


def cut(network: Network, workers: int, budget: float) -> tuple[Network, Plan]:
    """The network without the weights of other ghosts than a random part, and its plan."""
    dense, draw = dense_plan(network, workers, REPLICATED, np.ones(workers)), np.random.default_rng(SEED)
    kept: dict[str, np.ndarray] = {}
    masks = {}
    for mixing in network.mixings:
        owner, all_of = dense.owner(network, mixing.source), dense.mixings[mixing.name]
        if mixing.source not in kept:
            kept[mixing.source] = (draw.random((workers, owner.size)) < budget) | (owner == EVERYBODY)
        masks[mixing.name] = MixingPlan(all_of.ghosts & kept[mixing.source], all_of.sums)
    plan = replace(dense, mixings=masks)
    return plan.pruned(network), plan


def make_program(network: Network, plan: Plan, transport: str, max_batch: int, comm: MPI.Comm) -> Program:
    """This rank's part."""
    return Program([make_shard(network, plan, comm.rank, np.float32)], comm, max_batch, transport=transport)


if __name__ == "__main__":
    main()
