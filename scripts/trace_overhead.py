"""What recording a trace costs a forward: with and without, in turns, on the ranks that run this.

    mpirun -n 2 python scripts/trace_overhead.py SHARDS --batch 1

Of every turn the medians are compared.  Recording is begun anew in each, so that it always has room.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter

import numpy as np
from mpi4py import MPI

from repurpose_hpc.plan.files.store import open_plan
from repurpose_hpc.runtime.program import Program
from repurpose_hpc.runtime.recorder import Recorder
from repurpose_hpc.runtime.session import hosted_shards

COMM = MPI.COMM_WORLD


def main() -> None:
    """Measure, and print one line."""
    args = _arguments()
    shards = hosted_shards(open_plan(args.shards), COMM.size, COMM.rank, np.dtype(np.float32))
    program = Program(shards, COMM, args.batch)
    x = np.random.default_rng(0).random((program.input_columns.size, args.batch), np.float32)
    medians = np.array([_turn(program, x, args.repeat) for _ in range(args.turns + 1)][1:])
    if COMM.rank == 0:
        off, on = 1e6 * np.median(medians, axis=0)
        ratio = np.median(medians[:, 1] / medians[:, 0]) - 1
        print(
            f"{COMM.size} ranks, batches of {args.batch}: {off:.1f} µs, recorded {on:.1f} µs ({ratio:+.1%})"
        )


def _turn(program: Program, x: np.ndarray, repeat: int) -> tuple[float, float]:
    """Medians without and with recording, seconds; collective."""
    without = _median(program, x, repeat)
    recorder = Recorder(COMM)
    recorder.begin(program)
    recorded = _median(program, x, repeat)
    recorder.end(program)
    return without, recorded


def _median(program: Program, x: np.ndarray, repeat: int) -> float:
    seconds = np.empty(repeat)
    COMM.Barrier()
    for number in range(repeat):
        began = perf_counter()
        program.forward(x)
        seconds[number] = perf_counter() - began
    return float(np.median(seconds))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=400, help="forwards of a turn")
    parser.add_argument("--turns", type=int, default=40)
    return parser.parse_args()


if __name__ == "__main__":
    main()
