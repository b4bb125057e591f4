"""Compare forecasts with measurements: run restructured networks, and forecast them from a machine file.

    python scripts/check_forecast.py --machine FILE --out check.csv --batches 1,16,256 SHARDS ...

Each network is run by as many ranks as it has workers, with the launcher that belongs to the MPI here, also
inside ``scripts/rehearse.sh``, and by one process.  A line of the table: what was run, the least, the 10th
percentile and the median of its latencies, the forecast, and its ratio to the least.  (A machine file is made
of the fastest repeats too.  On a machine with other work, median and percentile measure that work.)
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import environment
import numpy as np

from repurpose_hpc.commands import forecast as forecast_command

SECONDS, CHUNK = 4.0, 10


def measure(shards: Path, ranks: int, batch: int) -> list[float]:
    """Least, 10th percentile and median of the latencies, in microseconds."""
    command = environment.mpi_command(Path(sys.executable), ranks)
    command += [__file__, "--run", str(shards), str(batch)]
    env = {"OMP_NUM_THREADS": "1", **environment.mpi_environment(ranks)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=env)
    return json.loads(done.stdout)


def run(shards: Path, batch: int) -> None:
    """A rank of ``measure``: random samples for SECONDS; one rank runs all workers as one."""
    from mpi4py import MPI

    from repurpose_hpc.plan.files.store import read_network
    from repurpose_hpc.plan.relays import without_relays
    from repurpose_hpc.runtime.loading import load_shards
    from repurpose_hpc.runtime.program import Program, one_process
    from repurpose_hpc.runtime.timing import measure as time_forwards

    comm, dtype = MPI.COMM_WORLD, np.dtype(np.float32)
    stored, parts = load_shards(shards, dtype, comm)
    alone = comm.size == 1
    if alone:
        program = one_process(without_relays(read_network(stored), stored.plan), dtype, batch)
    else:
        program = Program(parts, comm, batch)
    shape = program.input_columns.size, batch
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    latencies, ends = [], time.monotonic() + SECONDS
    while comm.bcast(time.monotonic() < ends, root=0):
        timing = time_forwards(program, x, CHUNK, comm)
        if timing is not None:
            latencies.append(timing.latency)
    if comm.rank == 0:
        print(json.dumps((1e6 * np.percentile(np.concatenate(latencies), (0, 10, 50))).tolist()))


def compare(shards: Path, machine: str, batch: int, ranks: int) -> dict:
    """One line of the table."""
    least, p10, median = measure(shards, ranks, batch)
    options = ["--machine", machine, "--ranks", str(ranks), "--batch-size", str(batch)]
    points = forecast_command.predict(forecast_command.parse([str(shards), *options]))["points"]
    forecast = points[0]["restructured"]
    numbers = {
        "least_us": least,
        "p10_us": p10,
        "median_us": median,
        "forecast_us": forecast["total_us"],
        "wire_us": forecast["latency_us"] + forecast["bytes_us"],
        "overhead_us": forecast["overhead_us"],
    }
    return {
        "machine": Path(machine).stem,
        "shards": shards.name,
        "ranks": ranks,
        "batch": batch,
        **{name: round(value, 1) for name, value in numbers.items()},
        "ratio": round(forecast["total_us"] / least, 2),
    }


def main() -> None:
    """Run everything on the command line and append to the table."""
    if sys.argv[1:2] == ["--run"]:
        return run(Path(sys.argv[2]), int(sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", nargs="+", type=Path)
    parser.add_argument("--machine", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batches", default="1,16,256")
    args = parser.parse_args()
    for shards in args.shards:
        workers = len(list(shards.glob("worker-*.h5")))
        for batch in map(int, args.batches.split(",")):
            for ranks in (1, workers):
                row = compare(shards, args.machine, batch, ranks)
                print(row, flush=True)
                with open(args.out, "a", newline="") as file:
                    table = csv.DictWriter(file, row)
                    if not file.tell():
                        table.writeheader()
                    table.writerow(row)


if __name__ == "__main__":
    main()
