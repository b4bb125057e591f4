"""Milliseconds by size of map, of layers by position beside channels and one process, as a Markdown table.

    python scripts/position_layers.py MODEL INPUT SHARDS...

A column for each directory of shards, of MODEL: what its ranks, one for each worker, compute and pack for a
sample at maps of each size, and what they wait, by ``infer --trace``.  Of the ranks it is the one that
computes most at maps of that size; of the samples, the median.  Copies that bring halos to a map count for
the size of that map, and exchanges for the layer that they are for.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from rows import markdown

from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.files.store import open_plan

WORK = ("compute", "pack", "unpack", "exchange")
# Size of maps -> milliseconds of work, and of waiting.
Times = dict[str, tuple[float, float]]


def main() -> None:
    """Run, add up, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("input", type=Path)
    parser.add_argument("shards", type=Path, nargs="+")
    args = parser.parse_args()
    sizes = _sizes(load_model(args.model, check=False))
    columns = {shards.name: _times(_traced(shards, args.input), sizes) for shards in args.shards}
    names = [f"{name}: {what}" for name in columns for what in ("computed", "waited")]
    rows = [
        (size, *(f"{ms:.2f}" for times in columns.values() for ms in times.get(size, (0.0, 0.0))))
        for size in dict.fromkeys(sizes.values())
    ]
    print(markdown(("maps", *names), rows))


def _sizes(network: Network) -> dict[str, str]:
    """The size of the maps that an operation makes, by the names of it and of its target."""
    sizes: dict[str, str] = {}
    for op in network.operations:
        size = " x ".join(map(str, network.positions_of[op.target])) or "vectors"
        sizes |= {op.name: size, op.target: size}
    return sizes


def _traced(shards: Path, samples: Path) -> list[dict]:
    """The events of a run of single samples, a rank for each worker."""
    trace, ranks = shards.with_suffix(".trace.json"), open_plan(shards).plan.workers
    command = [sys.executable, "-m", "repurpose_hpc", "infer", "--shards", str(shards), "--quiet"]
    options = ["--input", str(samples), "--batch-size", "1", "--repeat", "0", "--trace", str(trace)]
    subprocess.run(["mpirun", "-n", str(ranks), *command, *options], check=True)
    events = json.loads(trace.read_text())["traceEvents"]
    trace.unlink()
    return [event for event in events if event.get("ph") == "X"]


def _times(events: list[dict], sizes: dict[str, str]) -> Times:
    """Times of a sample by the size of maps."""
    # Rank, size, waiting or not -> milliseconds in each batch.
    spent: dict[tuple[int, str, bool], dict[int, float]] = defaultdict(lambda: defaultdict(float))
    batches: dict[int, list[dict]] = defaultdict(list)
    for event in events:
        if event["cat"] == "batch":
            batches[event["pid"]].append(event)
    for event in events:
        waits = event["cat"] == "wait"
        if not waits and event["cat"] not in WORK:
            continue
        number = sum(batch["ts"] <= event["ts"] for batch in batches[event["pid"]])
        spent[event["pid"], _size(event["args"]["layer"], sizes), waits][number] += event["dur"] / 1000
    medians = {key: statistics.median(each.values()) for key, each in spent.items()}
    found: Times = {}
    for size in dict.fromkeys(sizes.values()):
        ranks = [
            (medians.get((rank, size, False), 0.0), medians.get((rank, size, True), 0.0)) for rank in batches
        ]
        found[size] = max(ranks)
    return found


def _size(label: str, sizes: dict[str, str]) -> str:
    """The size of the maps that a call is about, by the name of its layer, or of the first of them."""
    name = re.split(r"[@,]", label)[0]
    return sizes.get(name, sizes.get(name.split(".relays")[0], "vectors"))


if __name__ == "__main__":
    main()
