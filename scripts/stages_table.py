"""Throughput and latency by number of stages, and what the forecast says, for docs/stages.md.

    python scripts/stages_table.py random DIR           12 layers of 4,096, random, for times alone
    python scripts/stages_table.py cut MODEL --calibration DATA --workers 2 --budgets 1 0.05 --out DIR
    sudo scripts/rehearse.sh 2 100mbit python scripts/stages_table.py measure DIR --input DATA \\
        --label 100mbit --per-node 1 --batches 1 64 256
    python scripts/stages_table.py table DIR

``cut`` restructures for every number of stages that divides the workers and that the layers allow, at every
budget, to DIR/BUDGET/S.  ``measure`` probes the machine, and lets ``infer`` run everything in turns; of all
turns the largest throughput and the shortest latency count, as other work only takes away.  The forecast is
of the machine as it was just probed.  ``table`` prints Markdown; *chosen* is what the forecasts prefer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import environment
import numpy as np
from choice_table import append, probe
from rows import markdown, read_csv

from repurpose_hpc.commands import forecast as forecast_command
from repurpose_hpc.commands.staging import divisors
from repurpose_hpc.forecast.choice import preferred

TABLE, TURNS = "stages.csv", 3
WIDTH, LAYERS, SAMPLES = 4096, 12, 4096
COMMAND = ["-m", "repurpose_hpc"]


def main() -> None:
    """Run one of the steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("random", "cut", "measure", "table"))
    parser.add_argument("path", type=Path)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--input", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--budgets", nargs="+", default=["1", "0.05"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--label", default="one node")
    parser.add_argument("--per-node", type=int)
    parser.add_argument("--batches", type=int, nargs="+", default=[64])
    parser.add_argument("--micro-batches", type=int, default=1)
    args = parser.parse_args()
    if args.step == "random":
        random_model(args.path)
    elif args.step == "cut":
        cut(args.path, args.calibration, args.workers, args.budgets, args.out)
    elif args.step == "measure":
        append(args.path / TABLE, list(rows(args)))
    else:
        print(table(args.path / TABLE))


def random_model(folder: Path) -> None:
    """A network whose outputs mean nothing, and samples."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"W{k}": rng.standard_normal((WIDTH, WIDTH), np.float32) / WIDTH**0.5 for k in range(LAYERS)}
    biases = {f"b{k}": np.zeros(WIDTH, np.float32) for k in range(LAYERS)}
    np.savez(folder / "model.npz", **weights, **biases)
    np.savez(folder / "x.npz", x=rng.standard_normal((SAMPLES, WIDTH), np.float32))


def cut(model: Path, calibration: Path, workers: int, budgets: list[str], out: Path) -> None:
    """Shards of a model for all numbers of stages that there are none for yet."""
    for budget in budgets:
        for stages in divisors(workers):
            place = out / budget / str(stages)
            if place.exists():
                continue
            words = [str(model), "--calibration", str(calibration), "--workers", str(workers)]
            words += ["--stages", str(stages), "--comm-budget", budget, "--out", str(place)]
            place.parent.mkdir(parents=True, exist_ok=True)
            report = place.with_suffix(".json")
            subprocess.run([sys.executable, *COMMAND, "restructure", *words, "--report", str(report)])


def rows(args: argparse.Namespace) -> Iterator[dict]:
    """All plans in one place, with forecasts from a probe of just now."""
    machine = args.path / f"machine-{args.label.replace(' ', '-')}.json"
    probe(machine, args.per_node)
    plans = sorted(report.with_suffix("") for report in args.path.glob("*/*.json"))
    for batch in args.batches:
        found: dict[Path, list[dict]] = {plan: [] for plan in plans}
        for _ in range(TURNS):
            for plan in plans:
                found[plan].append(infer(plan, args.input, batch, args.micro_batches))
        for plan in plans:
            made = json.loads(plan.with_suffix(".json").read_text())
            yield {
                "label": args.label,
                "batch": batch,
                "budget": plan.parent.name,
                "workers": made["workers"],
                "stages": plan.name,
                "values_sent": made["values_sent"],
                "rounds": made["rounds"],
                "output_error": made["output_error"],
                "throughput": max(run["throughput"] for run in found[plan]),
                "latency_us": min(run["latency_us"]["p10"] for run in found[plan]),
                "forecast_us": forecast(plan, machine, made["workers"], batch),
            }


def infer(plan: Path, data: Path, batch: int, micro_batches: int) -> dict:
    """The report of a run of ``infer``, with a rank for every worker."""
    ranks, report = len(list(plan.glob("worker-*.h5"))), plan.with_suffix(".run")
    words = ["infer", "--shards", str(plan), "--input", str(data), "--batch-size", str(batch)]
    words += ["--micro-batches", str(micro_batches), "--repeat", "20", "--exchange", "p2p"]
    command = [*environment.mpi_command(Path(sys.executable), ranks), *COMMAND, *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment.mpi_environment(ranks)}
    line = [*command, "--report", str(report)]
    subprocess.run(line, check=True, env=env, stdout=subprocess.DEVNULL)
    return json.loads(report.read_text())


def forecast(plan: Path, machine: Path, workers: int, batch: int) -> float:
    """Microseconds from batch to batch by the forecast; of one stage those of a batch."""
    options = ["--machine", str(machine), "--ranks", str(workers), "--batch-size", str(batch)]
    points = forecast_command.predict(forecast_command.parse([str(plan), *options]))["points"]
    times = points[0]["restructured"]
    return times.get("period_us", times["total_us"])


def table(path: Path) -> str:
    """Lines of Markdown."""
    found = read_csv(path)
    lines = []
    for key in dict.fromkeys(map(_key, found)):
        group = [row for row in found if _key(row) == key]
        base = float(group[0]["throughput"])
        chosen = preferred({int(row["stages"]): float(row["forecast_us"]) for row in group})
        for row in group:
            made = 1e6 * int(row["batch"]) / float(row["forecast_us"])
            lines.append(
                (
                    *key,
                    row["stages"] + " *" * (int(row["stages"]) == chosen),
                    f"{int(row['values_sent']):,}",
                    row["rounds"],
                    f"{float(row['output_error']):.4f}",
                    f"{float(row['throughput']):,.0f} ({float(row['throughput']) / base:.2f})",
                    f"{made:,.0f}",
                    f"{float(row['latency_us']) / 1e3:,.1f}",
                )
            )
    names = ("place", "batch", "budget", "P", "S", "values", "rounds", "error")
    return markdown((*names, "samples/s", "forecast", "ms alone"), lines)


def _key(row: dict[str, str]) -> tuple[str, str, str, str]:
    return row["label"], row["batch"], row["budget"], row["workers"]


if __name__ == "__main__":
    main()
