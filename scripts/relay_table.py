"""Accuracy with and without relays, as CSV and as a Markdown table.

    python scripts/relay_table.py MODEL --calibration DATA --test DATA --out docs/results/relays.csv

Every entry restructures anew from the same model and calibration data, a network on vectors with three seeds,
one on maps with one; the test data only report.  A second call computes only what is missing.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path
from statistics import mean

from accuracy_table import arguments

from repurpose_hpc.restructure.calibration.evaluation import compare
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.studies.accuracy.study import open_study

BUDGETS = {"partitioned": (0.05, 0.02, 0.01, 0.005), "replicated": (0.005, 0.0035, 0.002)}
FORMS = ("ghosts,sums", "ghosts,sums,relays")
SEEDS = (0, 1, 2)
BUDGETS_ON_MAPS = {"replicated": (0.1, 0.05, 0.2)}
SEEDS_ON_MAPS = (0,)
COLUMNS = ("input_placement", "budget", "forms", "seed", "values_sent", "accuracy", "output_error", "seconds")


def main() -> None:
    """Measure what is missing, row by row, and print the table."""
    args = arguments(__doc__)
    study = open_study(args.model, args.calibration, args.test)
    network = study.network
    on_maps = any(network.positions_of.values())
    rows = _read(args.out)
    points = [
        (placement, budget, forms, seed)
        for placement, budgets in (BUDGETS_ON_MAPS if on_maps else BUDGETS).items()
        for budget in budgets
        for forms in FORMS
        for seed in (SEEDS_ON_MAPS if on_maps else SEEDS)
    ]
    for placement, budget, forms, seed in points:
        key = (placement, str(budget), forms, str(seed))
        if key in rows:
            continue
        began = time.perf_counter()
        options = Options(args.workers, budget, placement, seed=seed, forms=tuple(forms.split(",")))
        cut = restructure(network, study.calibration, options)
        seconds = time.perf_counter() - began
        found = compare(network, cut.network, study.test).findings()
        values = int(cut.traffic_matrix().sum())
        rows[key] = [values, round(found["accuracy"], 4), round(found["output_error"], 5), round(seconds, 1)]
        print(*key, *rows[key], flush=True)
        _write(args.out, rows)
    print(_markdown(rows))


def _read(path: Path) -> dict[tuple, list]:
    if not path.exists():
        return {}
    with open(path, newline="") as file:
        return {tuple(row[:4]): row[4:] for row in list(csv.reader(file))[1:]}


def _write(path: Path, rows: dict[tuple, list]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *([*key, *found] for key, found in rows.items())])


def _markdown(rows: dict[tuple, list]) -> str:
    """A line for each budget; means over the seeds."""
    lines = ["| input | budget | forms | values | accuracy | output error | seconds |", "|---" * 7 + "|"]
    for placement, budget, forms in dict.fromkeys(key[:3] for key in rows):
        found = [row for key, row in rows.items() if key[:3] == (placement, budget, forms)]
        values, accuracy, error, seconds = (mean(map(float, column)) for column in zip(*found, strict=True))
        cells = (
            placement,
            budget,
            forms,
            f"{values:,.0f}",
            f"{accuracy:.4f}",
            f"{error:.4f}",
            f"{seconds:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
