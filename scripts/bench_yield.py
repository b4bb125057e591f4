"""What MPIR_CVAR_ENABLE_HEAVY_YIELD=1 does to ranks of MPICH, alone and beside busy neighbours.

    python scripts/bench_yield.py --ranks 2,4,8

Every line is a number of ranks, alone or with as many neighbours as there are cores, of the same priority,
that do nothing but compute.  Columns are medians without and with the variable: microseconds of a call in
which every rank sends every other one four bytes, and of a forward of one sample through four layers (those
of ``bench inference``); seconds of a whole command, infer of the bundled network.  MPI reads the variable
when it starts, so each launch has it or not; launches take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import environment
import numpy as np

from repurpose_hpc.bench.turns import in_turns, together
from repurpose_hpc.commands.parser import argument_type
from repurpose_hpc.fields import integer, listed

INTEGERS = argument_type(listed(integer(1), "integers"))
POSITIVE = argument_type(integer(1))
# The option of the ranks that this script launches itself.
ON_RANKS = "--on-ranks"
MEASURED = ("exchange", "forward", "infer, s")
HEAD = ("ranks", "neighbours", "load", *(word for name in MEASURED for word in (name, "with", "ratio")))
SPIN = "while True: pass"
SEPARATELY = {"PYTHONPATH": str(environment.ROOT), "OMP_NUM_THREADS": "1"}


def main() -> None:
    """Launch, or be launched."""
    args = parse()
    if args.on_ranks:
        measure(args.width, args.repeat)
        return
    print(f"| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|", flush=True)
    for ranks in args.ranks:
        for neighbours in (0, len(os.sched_getaffinity(0))):
            with busy(neighbours):
                load, (without, with_it) = os.getloadavg()[0], launches(ranks, args)
            print(f"| {ranks} | {neighbours} | {load:.1f} |", *columns(without, with_it), flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=INTEGERS, default=(2, 4, 8), metavar="N,N,...")
    parser.add_argument("--width", type=POSITIVE, default=1024, metavar="N", help="neurons of a layer")
    parser.add_argument("--launches", type=POSITIVE, default=3, metavar="N", help="with and without, each")
    parser.add_argument("--repeat", type=POSITIVE, default=100, metavar="N", help="timed calls of a launch")
    parser.add_argument(ON_RANKS, action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def columns(without: dict[str, float], with_it: dict[str, float]) -> Iterator[str]:
    """The columns behind those of the circumstances."""
    for name in MEASURED:
        yield f"{rounded(without[name])} | {rounded(with_it[name])} | {with_it[name] / without[name]:.2f} |"


def rounded(number: float) -> str:
    """A number with a digit behind the point where it is small."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}"


@contextmanager
def busy(neighbours: int) -> Iterator[None]:
    """A block with so many processes beside it that compute without end."""
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(neighbours)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def launches(ranks: int, args: argparse.Namespace) -> tuple[dict[str, float], dict[str, float]]:
    """Medians over the launches without and with the variable."""
    times: tuple[list, list] = ([], [])
    with tempfile.TemporaryDirectory() as folder:
        launch(ranks, args, Path(folder), with_it=False)  # compiles and restructures
        for _ in range(args.launches):
            for with_it in (False, True):
                times[with_it].append(launch(ranks, args, Path(folder), with_it))
    without, with_it = ({name: median(run[name] for run in runs) for name in runs[0]} for runs in times)
    return without, with_it


def launch(ranks: int, args: argparse.Namespace, folder: Path, with_it: bool) -> dict[str, float]:
    """Times of one launch, see ``columns``."""
    launcher = environment.mpi_command(Path(sys.executable), ranks)
    env = {**environment.mpi_environment(), **SEPARATELY, "REPURPOSE_HPC_CACHE": str(folder)}
    env |= {environment.HEAVY_YIELD: str(int(with_it))}
    own = [*launcher, __file__, ON_RANKS, "--width", str(args.width), "--repeat", str(args.repeat)]
    times = json.loads(finish(own, env))
    began = time.monotonic()
    finish([*launcher, "-m", "repurpose_hpc", "infer", "--repeat", "0", "--no-verify"], env)
    return {**times, MEASURED[-1]: time.monotonic() - began}


def finish(command: Sequence[str], env: dict[str, str]) -> str:
    """What a command prints.

    Raises:
        SystemExit: it fails.
    """
    done = environment.run([*command], env, timeout=600)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def measure(width: int, repeat: int) -> None:
    """Print the medians of this job, on the root; collective."""
    from bench_overlap import make_program
    from mpi4py import MPI

    from repurpose_hpc.bench.entrants import Chain
    from repurpose_hpc.bench.placement import Placement
    from repurpose_hpc.plan.plan import REPLICATED
    from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT

    comm = MPI.COMM_WORLD
    Placement(comm)
    chain = Chain(width, comm.size, 0.05, 1, np.dtype(np.float32), REPLICATED)
    program = make_program(chain, DEFAULT_TRANSPORT, 1, comm)
    x = np.random.default_rng(0).standard_normal((width, 1), np.float32)[program.input_columns]
    send, receive = np.zeros((2, comm.size), np.float32)
    actions = {"exchange": partial(comm.Alltoall, send, receive), "forward": partial(program.forward, x)}
    turns = {name: together(action, comm, comm.Barrier) for name, action in actions.items()}
    spreads = in_turns(turns, repeat)
    if comm.rank == 0:
        print(json.dumps({name: spread.median for name, spread in spreads.items()}))


if __name__ == "__main__":
    main()
