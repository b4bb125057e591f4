"""What the same bits cost: forwards of deterministic programs beside those of others, in turns.

    mpirun -n 2 python scripts/bench_deterministic.py

Networks of square layers with random weights, cut at random for more workers than there are ranks.  The last
columns have the values per sample that ranks send: by default they add up the sums of their workers before.
Times are 10th percentiles, which other work on the machine changes less than medians.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
from mpi4py import MPI

from repurpose_hpc.bench.placement import Placement
from repurpose_hpc.bench.turns import REPEATS, in_turns, together
from repurpose_hpc.commands.parser import argument_type
from repurpose_hpc.fields import integer, listed
from repurpose_hpc.model.activations import RELU
from repurpose_hpc.model.builder import Builder
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Window
from repurpose_hpc.plan.masks import mixing_plan
from repurpose_hpc.plan.plan import PARTITIONED, Plan
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.runtime.hosting import hosted_workers
from repurpose_hpc.runtime.program import Program

FLOAT = np.dtype(np.float32)
LAYERS = 3
# Of the neurons that a worker does not own, those that it receives, or sends sums for.
CROSSING = 0.05
DEFAULT, DETERMINISTIC = "default", "deterministic"
HEAD = """
| network | batch | default | deterministic | values sent | deterministic |
|---|---|---|---|---|---|"""
POSITIVE = argument_type(integer(1))
INTEGERS = argument_type(listed(integer(1), "integers"))


def chain(neurons: int, window: Window | None = None, density: float = 1.0) -> Network:
    """Layers with bias and ReLU, of which a share of the weights is not zero."""
    draw, builder = np.random.default_rng(0), Builder()
    tensor = builder.input("input", neurons, () if window is None else window.positions)
    columns = neurons * (1 if window is None else window.taps)
    for layer in range(LAYERS):
        weights = draw.standard_normal((neurons, columns)) * np.sqrt(2 / columns)
        weights *= draw.random(weights.shape) < density
        tensor = builder.mixing(f"layer{layer}", tensor, weights, draw.standard_normal(neurons), window)
        tensor = builder.elementwise(f"relu{layer}", tensor, RELU)
    return builder.build((tensor,), ("identity",))


def square(size: int) -> Window:
    """A 3x3 convolution of square maps."""
    return Window((size, size), (3, 3), (1, 1), (1, 1), (1, 1), (size, size))


def cut(network: Network, workers: int, sums: bool) -> tuple[Network, Plan]:
    """Equal parts of all layers, joined by few ghosts, or by few sums."""
    draw = np.random.default_rng(1)
    owners = network.derive(
        {
            space.name: np.repeat(np.arange(workers, dtype=np.int32), -(-space.neurons // workers))[
                : space.neurons
            ]
            for space in network.free_spaces
        }
    )
    plans = {}
    for mixing in network.mixings:
        ends = [owners[network.space_of[end]] for end in (mixing.source, mixing.target)]
        crossing, none = (draw.random((workers, ends[sums].size)) < share for share in (CROSSING, 0))
        masks = (none, crossing) if sums else (crossing, none)
        plans[mixing.name] = mixing_plan(*masks, *ends)
    plan = Plan(workers, PARTITIONED, owners, plans)
    return plan.pruned(network), plan


# Networks, and whether their parts are joined by sums.
SUBJECTS: dict[str, tuple[Callable[[], Network], bool]] = {
    "dense 1024": (partial(chain, 1024), False),
    "dense 2048": (partial(chain, 2048), False),
    "dense 1024, sums": (partial(chain, 1024), True),
    "10 % of 2048": (partial(chain, 2048, density=0.1), False),
    "3 % of 2048": (partial(chain, 2048, density=0.03), False),
    "3x3, 64 of 14x14": (partial(chain, 64, square(14)), False),
    "3x3, 256 of 7x7": (partial(chain, 256, square(7)), False),
}


def main() -> None:
    """Print the table, on the root."""
    args = parse()
    comm = MPI.COMM_WORLD
    Placement(comm)
    if comm.rank == 0:
        print(f"{LAYERS} layers, {args.workers} workers, ranks: {comm.size}; microseconds, 10th percentiles")
        print(HEAD)
    for name, (make, sums) in SUBJECTS.items():
        network, plan = cut(make(), args.workers, sums)
        for batch in args.batches:
            row = measured(network, plan, batch, args.repeat, comm)
            if comm.rank == 0:
                print(f"| {name} | {batch} | {row} |", flush=True)


def measured(network: Network, plan: Plan, batch: int, repeats: int, comm: MPI.Comm) -> str:
    """The cells of a batch size; collective."""
    programs = {kind: program_of(network, plan, batch, kind, comm) for kind in (DEFAULT, DETERMINISTIC)}
    x = np.random.default_rng(0).standard_normal((network.inputs, batch), np.float32)
    turns = {
        kind: together(partial(program.forward, x[program.input_columns]), comm, comm.Barrier)
        for kind, program in programs.items()
    }
    us = {kind: spread.p10 for kind, spread in in_turns(turns, repeats).items()}
    sent = {kind: comm.allreduce(program.values_sent) for kind, program in programs.items()}
    for program in programs.values():
        program.free()
    ratio = us[DETERMINISTIC] / us[DEFAULT]
    times = f"{us[DEFAULT]:,.0f} | {us[DETERMINISTIC]:,.0f} ({ratio:.2f})"
    return f"{times} | {sent[DEFAULT]:,} | {sent[DETERMINISTIC]:,}"


def program_of(network: Network, plan: Plan, batch: int, kind: str, comm: MPI.Comm) -> Program:
    """This rank's part."""
    hosted = hosted_workers(plan.workers, comm.size, comm.rank)
    shards = [make_shard(network, plan, worker, FLOAT.type) for worker in hosted]
    return Program(shards, comm, batch, deterministic=kind == DETERMINISTIC)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=POSITIVE, default=8, metavar="P")
    parser.add_argument("--batches", type=INTEGERS, default=(1, 16, 64), metavar="B,B,...")
    parser.add_argument("--repeat", type=POSITIVE, default=REPEATS, metavar="N")
    return parser.parse_args()


if __name__ == "__main__":
    main()
