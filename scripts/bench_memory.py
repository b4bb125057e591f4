"""Measure what a rank needs before it computes: memory, and the time to load and to the first result.

    OMP_NUM_THREADS=1 python scripts/bench_memory.py --out memory.json

*Memory*: ``infer`` on synthetic plans, beside 1.25 x (weights, two activations, exchange buffers) + 150 MB.
*Loading*: shards that are not in the file cache, verified and every page of their weights used, in turns
with reading the same file in blocks of 4 MiB, each in a process of its own; medians.  A process drops the
file from the cache right before its clock starts: virtual machines give memory that is free for a while back
to their host, and getting it again would be charged to whoever imports more before reading.
*Start*: the bundled network on 8 ranks, with shards and kernels in their caches; medians.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import environment
import numpy as np
from bench_kernels import parse, print_table

from repurpose_hpc.plan.files.store import open_plan, read_shard, shard_path, write_plan
from repurpose_hpc.plan.shard import Shard
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.synthetic import cut_at_budget, random_network

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 600.0
# (width, layers); the first is what a rank needs without weights worth mentioning.
NETWORKS = ((64, 4), (4096, 4), (8192, 4), (8192, 1))
BATCHES = (1, 256)
RANKS, START_RANKS = 2, 8
BUDGET = 0.05
LOADED = ((4096, 4), (8192, 4))
LOADS, STARTS = 7, 5

# Each prints seconds; its argument is the directory of a plan for one worker.
SETTING = """
import os, sys, time
from pathlib import Path
from repurpose_hpc.plan.files.store import open_plan, read_shard, shard_path
directory = Path(sys.argv[1])
file = shard_path(directory, 0)
def forget():
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
"""
LOAD = f"""{SETTING}
stored = open_plan(directory)
forget()
began = time.perf_counter()
shard = read_shard(stored, 0)
for block in shard.blocks.values():
    block.own_weights.reshape(-1)[::1024].sum()
print(time.perf_counter() - began)
"""
READ = f"""{SETTING}
block = bytearray(4 << 20)
forget()
began = time.perf_counter()
with open(file, "rb", buffering=0) as opened:
    while opened.readinto(block):
        pass
print(time.perf_counter() - began)
"""


def main() -> None:
    """Measure, and print three tables."""
    arguments = parse(__doc__)
    with tempfile.TemporaryDirectory(dir=arguments.out.parent if arguments.out else None) as temporary:
        folder = Path(temporary)
        memory = [row for number, shape in enumerate(NETWORKS) for row in memory_rows(folder, number, shape)]
        print_table(f"Memory of the rank that needs most, {RANKS} ranks, MB", memory)
        loading = [loading_row(folder, number, shape) for number, shape in enumerate(LOADED)]
        print_table("Loading a shard that is not in the file cache, MB/s", loading)
        start = start_row(folder)
        print_table(f"Start of the bundled network on {START_RANKS} ranks, seconds", [start])
    if arguments.out:
        results = {"memory": memory, "loading": loading, "start": start}
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


def make_plan(directory: Path, shape: tuple[int, int], workers: int) -> None:
    network, plan = cut_at_budget(random_network(*shape, seed=0), Options(workers, BUDGET))
    write_plan(directory, network, plan, {})


def memory_rows(folder: Path, number: int, shape: tuple[int, int]) -> list[dict]:
    """One row for each batch size."""
    shards, samples, rows = folder / f"memory-{number}", folder / "x.npy", []
    make_plan(shards, shape, RANKS)
    np.save(samples, np.ones((max(BATCHES), shape[0]), np.float32))
    stored = open_plan(shards)
    for batch in BATCHES:
        needs = [needed(read_shard(stored, worker), batch) for worker in range(RANKS)]
        weights, values = max(needs, key=sum)
        # Without --repeat 0 the root runs the whole network as well, to compare.
        options = ("--shards", shards, "--input", samples, "--batch-size", batch, "--repeat", 0)
        peak = infer(folder, RANKS, *options)["peak_memory_mib"] * 2**20 / 1e6
        limit = (1.25 * (weights + values)) / 1e6 + 150
        rows.append(
            {
                "width": shape[0],
                "layers": shape[1],
                "batch": batch,
                "weights": round(weights / 1e6, 1),
                "values": round(values / 1e6, 1),
                "peak": round(peak, 1),
                "limit": round(limit, 1),
                "peak_of_limit": round(peak / limit, 2),
            }
        )
    return rows


def needed(shard: Shard, batch: int) -> tuple[int, int]:
    """Bytes of a worker's weights, and of two activations with what it sends and receives for all mixings."""
    blocks = shard.blocks.values()
    weights = sum(part.nbytes for b in blocks for part in (b.own_weights, b.ghost_weights, b.sum_weights))
    spaces = sorted(shard.own[space.name].size for space in shard.graph.spaces)
    lists = [part_lists for block in blocks for part_lists in (block.ghosts, block.sums)]
    exchanged = sum(part_lists.sent.size + part_lists.received.size for part_lists in lists)
    return weights, 4 * batch * (sum(spaces[-2:]) + exchanged)


def loading_row(folder: Path, number: int, shape: tuple[int, int]) -> dict:
    """Rates of loading and of reading, in turns."""
    shards = folder / f"loading-{number}"
    make_plan(shards, shape, 1)
    size, times = shard_path(shards, 0).stat().st_size, {"load": [], "read": []}
    for _ in range(LOADS):
        for name, program in (("load", LOAD), ("read", READ)):
            times[name].append(seconds(program, shards))
    rates = {name: size / median(repeats) / 1e6 for name, repeats in times.items()}
    return {
        "mib": round(size / 2**20),
        **{name: round(rate) for name, rate in rates.items()},
        "load_of_read": round(rates["load"] / rates["read"], 2),
    }


def seconds(program: str, argument: Path) -> float:
    command, env = [sys.executable, "-c", program, str(argument)], {**os.environ, "PYTHONPATH": str(ROOT)}
    return float(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)


def start_row(folder: Path) -> dict:
    """Medians over the starts after a first one, which fills the caches."""
    found = []
    for _ in range(1 + STARTS):
        began = time.perf_counter()
        report = infer(folder, START_RANKS)
        whole = time.perf_counter() - began
        phases = {name: report["seconds"][name] for name in ("import", "load", "jit")}
        found.append({"first_result": report["first_result_seconds"], **phases, "whole_command": whole})
    return {name: round(median(each[name] for each in found[1:]), 2) for name in found[0]}


def infer(folder: Path, ranks: int, *options: object) -> dict:
    """The report of a run in fresh processes."""
    report = folder / "report.json"
    command = [*environment.mpi_command(Path(sys.executable), ranks), "-m", "repurpose_hpc.infer"]
    caches = {"PYTHONPATH": str(ROOT), "REPURPOSE_HPC_CACHE": str(folder / "cache")}
    env = {**environment.mpi_environment(), **caches}
    done = environment.run([*command, *map(str, options), "--report", str(report)], env, TIMEOUT)
    if done.returncode:
        sys.exit(f"{ranks} ranks failed with status {done.returncode}:\n{done.stderr}")
    return json.loads(report.read_text())


if __name__ == "__main__":
    main()
