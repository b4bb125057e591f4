"""Time of a forward in sweeps beside the exact order, where every round of messages takes a while.

    mpirun -n 2 python scripts/bench_late.py SHARDS --adjusted DIR... --input DATA --delays 0 100 400 \
        --out table.csv

SHARDS are for the exact order, and also run in sweeps; each DIR has shards of ``restructure --late K``.
Messages arrive a delay after they were sent, at the earliest: a rank that waits for them looks at the clock
until then.  That is latency alone, without a limit of bandwidth, on machines whose kernel has no netem.  The
exact order and all numbers of sweeps take turns.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
from mpi4py import MPI
from rows import write_csv

from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.plan.files.origin import sweeps_of
from repurpose_hpc.plan.files.store import open_plan, read_shard
from repurpose_hpc.plan.late import late
from repurpose_hpc.runtime.buffers import Part
from repurpose_hpc.runtime.calls import EXCHANGE, WAIT
from repurpose_hpc.runtime.exchange.exchange import Exchange
from repurpose_hpc.runtime.exchange.messages import Message, Request
from repurpose_hpc.runtime.exchange.transport import transport
from repurpose_hpc.runtime.exchange.transports.ialltoallv import Ialltoallv
from repurpose_hpc.runtime.hosting import hosted_workers
from repurpose_hpc.runtime.program import Program
from repurpose_hpc.runtime.timing import measure

TURNS, REPEATS = 5, 20


@transport("delayed")
class Delayed(Ialltoallv):
    """MPI_Ialltoallv whose messages take at least ``seconds``."""

    is_replayable = False
    seconds = 0.0

    def _request(self, exchange: Exchange, part: Part, sent: Message, received: Message) -> Request:
        request = super()._request(exchange, part, sent, received)
        clock = _Clock()
        return replace(
            request,
            post=[*request.post, (EXCHANGE, clock.start, ())],
            wait=[*request.wait, (WAIT, clock.wait, ())],
        )


class _Clock:
    """When the messages of an exchange were sent."""

    def start(self) -> None:
        self._began = perf_counter()

    def wait(self) -> None:
        while perf_counter() < self._began + Delayed.seconds:
            pass


def main() -> None:
    """Time all of them, and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--delays", type=float, nargs="+", default=[0, 100, 400], help="microseconds")
    parser.add_argument("--sweeps", type=int, nargs="*", default=[2, 3, 4])
    parser.add_argument("--adjusted", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    comm = MPI.COMM_WORLD
    runs = [Run(args.shards, sweeps) for sweeps in (None, *args.sweeps)]
    programs = {run: run.program(args.batch_size, comm) for run in (*runs, *map(Run, args.adjusted))}
    x = next(open_samples(args.input).batches(args.batch_size)).astype(np.float32)
    rows = []
    for delay in args.delays:
        Delayed.seconds = delay * 1e-6
        seconds: dict[Run, list[np.ndarray]] = {run: [] for run in programs}
        for _ in range(TURNS):
            for run, program in programs.items():
                timing = measure(program, np.ascontiguousarray(x[:, program.input_columns].T), REPEATS, comm)
                if timing is not None:
                    seconds[run].append(timing.latency)
        if comm.rank == 0:
            rows += _rows(args, delay, programs, seconds)
    if comm.rank == 0 and args.out is not None:
        write_csv(args.out, rows)


class Run(NamedTuple):
    """How some shards are run.

    Attributes:
        shards: their directory.
        sweeps: those that weights of the exact order are run in; None: as the shards are.
    """

    shards: Path
    sweeps: int | None = None

    def program(self, batch: int, comm: MPI.Comm) -> Program:
        """This rank's part."""
        stored = open_plan(self.shards)
        hosted = hosted_workers(stored.plan.workers, comm.size, comm.rank)
        own = [read_shard(stored, worker) for worker in hosted]
        if self.sweeps is not None:
            own = [late(shard.graph, stored.plan, self.sweeps).shard(shard) for shard in own]
        return Program(own, comm, batch, transport="delayed")

    @property
    def settings(self) -> dict[str, object]:
        """Sweeps and weights for the table."""
        own = sweeps_of(open_plan(self.shards))
        return {
            "sweeps": self.sweeps or own or "exact",
            "weights": "exact order" if own is None else "own",
        }


def _rows(
    args: argparse.Namespace,
    delay: float,
    programs: dict[Run, Program],
    seconds: dict[Run, list[np.ndarray]],
) -> list[dict[str, object]]:
    medians = {run: 1e6 * float(np.median(np.concatenate(found))) for run, found in seconds.items()}
    rows = [
        {
            "shards": args.shards.name,
            "ranks": MPI.COMM_WORLD.size,
            "batch": args.batch_size,
            "delay_us": delay,
            **run.settings,
            "rounds": programs[run].rounds,
            "median_us": f"{median:.0f}",
            "exact_over_this": f"{medians[Run(args.shards)] / median:.2f}",
        }
        for run, median in medians.items()
    ]
    print(*rows, sep="\n", flush=True)
    return rows


if __name__ == "__main__":
    main()
