"""What ``restructure --workers auto`` chooses beside what all numbers of workers take, for docs/forecast.md.

    python scripts/choice_table.py cut MODEL ... --calibration DATA --out DIR
    python scripts/choice_table.py measure DIR/NAME ... --label "one node" --out DIR/choice.csv
    sudo scripts/rehearse.sh 4 100mbit python scripts/choice_table.py measure DIR/NAME ... --label 100mbit \\
        --per-node 1 --out DIR/choice.csv
    python scripts/choice_table.py table DIR/choice.csv

``cut`` restructures each MODEL for every number of RANKS, to DIR/NAME/P.  ``measure`` probes the machine with
as many ranks as there are cores, runs every network on every number of ranks, and asks the command's own
function for its choice, which is given these shards where it would restructure.  ``table`` prints Markdown.
On a rehearsal all hosts share the cores of one machine, so more ranks than these take turns.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import environment
from check_forecast import measure

from repurpose_hpc.commands.choosing import choose, choosing_of
from repurpose_hpc.plan.files.store import open_plan, read_network
from repurpose_hpc.plan.relays import without_relays
from repurpose_hpc.restructure.job import Restructured
from repurpose_hpc.restructure.options import Options

RANKS = (1, 2, 3, 4)
BATCHES = (1, 16, 256)


def main() -> None:
    """Run one of the three steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("cut", "measure", "table"))
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--label", default="one node")
    parser.add_argument("--per-node", type=int)
    parser.add_argument("--ranks", default=",".join(map(str, RANKS)), help="of those, which to run now")
    args = parser.parse_args()
    if args.step == "cut":
        for model in args.paths:
            cut(model, args.calibration, args.out / model.stem)
    elif args.step == "measure":
        running = [int(word) for word in args.ranks.split(",")]
        append(args.out, list(rows(args.paths, args.label, args.per_node, running, args.out.parent)))
    else:
        print("\n".join(table(args.paths[0])))


def cut(model: Path, calibration: Path, folder: Path) -> None:
    """Shards of a model for all numbers of ranks that there are none for yet."""
    for ranks in RANKS:
        if not (folder / str(ranks)).exists():
            words = [str(model), "--calibration", str(calibration), "--workers", str(ranks)]
            command = [sys.executable, "-m", "repurpose_hpc", "restructure", *words]
            subprocess.run([*command, "--out", str(folder / str(ranks))], check=True)


def rows(
    folders: list[Path], label: str, per_node: int | None, running: list[int], out: Path
) -> Iterator[dict]:
    """The points of all networks in one place, with forecasts from a probe of just now."""
    machine = out / f"machine-{label.replace(' ', '-')}.json"
    probe(machine, per_node)
    for folder in folders:
        for batch in BATCHES:
            forecasts, chosen = choice(folder, machine, batch, max(running))
            for ranks in running:
                least, _, median = measure(folder / str(ranks), ranks, batch)
                yield {
                    "label": label,
                    "network": folder.name,
                    "batch": batch,
                    "ranks": ranks,
                    "forecast_us": round(forecasts[ranks], 1) if ranks in forecasts else "",
                    "least_us": round(least, 1),
                    "median_us": round(median, 1),
                    "chosen": int(ranks == chosen),
                }


def probe(machine: Path, per_node: int | None) -> None:
    """Measure the machine, with a rank for every core; other work must not make these look unequal."""
    cores = len(os.sched_getaffinity(0))
    command = environment.mpi_command(Path(sys.executable), cores)
    command += ["-m", "repurpose_hpc", "probe", "--out", str(machine)]
    command += [] if per_node is None else ["--ranks-per-node", str(per_node)]
    subprocess.run(command, check=True, env=environment.mpi_environment(cores))
    described = json.loads(machine.read_text())
    machine.write_text(json.dumps({**described, "all_ranks_gb_per_s": None}))


def choice(folder: Path, machine: Path, batch: int, most: int) -> tuple[dict[int, float], int]:
    """Forecasts by number of workers in microseconds, and the number that the command would choose."""
    original = open_plan(folder / "1")
    network = without_relays(read_network(original), original.plan)

    def shards(options: Options) -> Restructured:
        stored = open_plan(folder / str(options.workers))
        return Restructured(read_network(stored), stored.plan, {}, {})

    given = {"workers": "auto", "machine": str(machine), "ranks_at_most": most, "batch_size": batch}
    found = choose(choosing_of(given), network, shards, print).report["choice"]
    return {point["workers"]: point["forecast_us"] for point in found["points"]}, found["workers"]


def append(path: Path, points: list[dict]) -> None:
    """Add points to the table."""
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, points[0], lineterminator="\n")
        if not file.tell():
            writer.writeheader()
        writer.writerows(points)


def table(path: Path) -> list[str]:
    """Lines of Markdown: a row for every network, place and batch.

    What was measured several times has the least time of all, the last forecast, and every choice.
    """
    with open(path, newline="") as file:
        points = sorted(csv.DictReader(file), key=lambda point: (*_key(point), int(point["ranks"])))
    heads = ["place", "network", "batch", *(f"{ranks}" for ranks in RANKS), "chosen", "over the best"]
    lines = [heads, ["---"] * len(heads)]
    for key, group in groupby(points, _key):
        by_ranks: dict[int, list[dict]] = {}
        for point in group:
            by_ranks.setdefault(int(point["ranks"]), []).append(point)
        least = {ranks: _least(found) for ranks, found in by_ranks.items()}
        choices = [
            ranks for ranks, found in by_ranks.items() if any(point["chosen"] == "1" for point in found)
        ]
        over = max(least[ranks] for ranks in choices) / min(least.values())
        cells = [_cell(by_ranks.get(ranks, [])) for ranks in RANKS]
        lines.append([*map(str, key), *cells, " or ".join(map(str, choices)), f"{over:.2f}"])
    return ["| " + " | ".join(line) + " |" for line in lines]


def _key(point: dict) -> tuple[str, str, int]:
    return point["label"], point["network"], int(point["batch"])


def _least(found: list[dict]) -> float:
    return min(float(point["least_us"]) for point in found)


def _cell(found: list[dict]) -> str:
    """The least time measured, and the forecast of a candidate."""
    if not found:
        return ""
    forecast = found[-1]["forecast_us"]
    return f"{_least(found):,.0f}" + (f" ({float(forecast):,.0f})" if forecast else "")


if __name__ == "__main__":
    main()
