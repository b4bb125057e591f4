"""Accuracy against computation, as CSV and as a Markdown table.

    python scripts/compute_table.py MODEL --calibration DATA --test DATA --out docs/results/compute.csv

Every entry restructures anew from the same model and calibration data, with three seeds; the test data only
report.  A second call computes only what is missing.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.restructure.calibration.evaluation import compare
from repurpose_hpc.restructure.computation import dense_multiply_adds
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options

# Workers, input placement, communication budget.
SETTINGS = ((2, "replicated", 0.05), (8, "replicated", 0.02), (8, "partitioned", 0.05))
BUDGETS = (1.0, 0.5, 0.25, 0.15, 0.1)
SEEDS = (0, 1, 2)
COLUMNS = (
    *("workers", "input_placement", "comm_budget", "compute_budget", "seed"),
    *("values_sent", "compute_fraction", "neurons_removed", "accuracy", "output_error"),
)
KEYS = 5
Row = Sequence[str | float]


def main() -> None:
    """Measure what is missing, row by row, and print the table."""
    args = _arguments()
    network = load_model(args.model)
    calibration, test = open_samples(args.calibration), open_samples(args.test)
    rows = _read(args.out)
    for workers, placement, comm_budget in SETTINGS:
        for budget in BUDGETS:
            for seed in SEEDS[: args.seeds]:
                key = tuple(map(str, (workers, placement, comm_budget, budget, seed)))
                if key in rows:
                    continue
                options = Options(workers, comm_budget, placement, seed=seed, compute_budget=budget)
                cut = restructure(network, calibration, options)
                found = compare(network, cut.network, test).findings()
                busiest = cut.plan.multiply_adds(cut.network).max() * workers / dense_multiply_adds(network)
                rows[key] = [
                    int(cut.traffic_matrix().sum()),
                    round(float(busiest), 3),
                    sum(int(removed.sum()) for removed in cut.plan.removed.values()),
                    round(found["accuracy"], 4),
                    round(found["output_error"], 5),
                ]
                print(*key, *rows[key], flush=True)
                _write(args.out, rows)
    print(_markdown(rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True, metavar="DATA")
    parser.add_argument("--test", type=Path, required=True, metavar="DATA")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), metavar="N", help="the first N of them")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.csv")
    return parser.parse_args()


def _read(path: Path) -> dict[tuple, Row]:
    if not path.exists():
        return {}
    with open(path, newline="") as file:
        return {tuple(row[:KEYS]): row[KEYS:] for row in list(csv.reader(file))[1:]}


def _write(path: Path, rows: dict[tuple, Row]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *([*key, *found] for key, found in rows.items())])


def _markdown(rows: dict[tuple, Row]) -> str:
    """A line for each budget; means over the seeds."""
    names = ("P", "input", "budget", "computation", "values", "done", "neurons removed", "accuracy", "error")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for setting in dict.fromkeys(key[: KEYS - 1] for key in rows):
        found = [row for key, row in rows.items() if key[: KEYS - 1] == setting]
        values, done, removed, accuracy, error = (
            mean(map(float, column)) for column in zip(*found, strict=True)
        )
        cells = (
            *setting,
            f"{values:,.0f}",
            f"{done:.3f}",
            f"{removed:,.0f}",
            f"{accuracy:.4f}",
            f"{error:.4f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
