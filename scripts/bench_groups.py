"""Samples per second of ``infer --groups G``, over those of G jobs of one group each.

    python scripts/bench_groups.py SHARDS --input DATA --groups 2 --ranks 1 --out FILE.csv

A group has ``--ranks`` ranks.  In each turn run one group, G of them at the same time that know nothing of
each other, and G groups that share the samples.  *ratio* is that of the groups over G times one; *together*
over the G jobs, which find the same cores: where others use these, too, it says what the groups cost.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from rows import write_csv


def main() -> None:
    """Let them take turns, and print the median ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--input", type=Path, required=True)
    for name, default in (("groups", 2), ("ranks", 1), ("batch-size", 256), ("turns", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for _ in range(args.turns):
        load = os.getloadavg()[0]
        one = throughput(args)
        with ThreadPoolExecutor(args.groups) as pool:
            jobs = sum(pool.map(lambda _: throughput(args), range(args.groups)))
        groups = throughput(args, args.groups)
        counts = {"load": load, "one": round(one), "jobs": round(jobs), "groups": round(groups)}
        ratios = {"ratio": groups / (args.groups * one), "together": groups / jobs}
        rows.append(counts | {name: f"{ratio:.3f}" for name, ratio in ratios.items()})
        print(*rows[-1].values(), flush=True)
        if args.out is not None:
            write_csv(args.out, rows)
    for name in ("ratio", "together"):
        found = [float(row[name]) for row in rows]
        print(f"{name:<8} {median(found):.3f}, of {min(found):.3f} to {max(found):.3f}")


def throughput(args: argparse.Namespace, groups: int = 1) -> float:
    """Samples per second of a run, from the file to the outputs in their file."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        words = ["--shards", args.shards, "--input", args.input, "--output", f"{directory}/y.h5"]
        words += ["--batch-size", args.batch_size, "--repeat", 0, "--groups", groups, "--report", report]
        launch = ["mpirun", "-n", groups * args.ranks, sys.executable, "-m", "repurpose_hpc", "infer"]
        subprocess.run([*map(str, launch + words)], check=True, stdout=subprocess.DEVNULL)
        return json.loads(report.read_text(encoding="utf-8"))["throughput"]


if __name__ == "__main__":
    main()
