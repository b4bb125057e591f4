"""Accuracy against computation, as CSV and as a Markdown table.

    python scripts/compute_table.py MODEL --calibration DATA --test DATA --out docs/results/compute.csv

Every entry restructures anew from the same model and calibration data, with three seeds; the test data only
report.  A second call computes only what is missing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rows import mean_table, read_csv, write_csv

from repurpose_hpc.io.samples import Samples, open_samples
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.network import Network
from repurpose_hpc.restructure.calibration.evaluation import compare
from repurpose_hpc.restructure.computation import compute_fraction
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options

# Workers, input placement, communication budget.
SETTINGS = ((2, "replicated", 0.05), (8, "replicated", 0.02), (8, "partitioned", 0.05))
BUDGETS = (1.0, 0.5, 0.25, 0.15, 0.1)
SEEDS = (0, 1, 2)
KEYS = ("workers", "input_placement", "comm_budget", "compute_budget")
Row = dict[str, str]


def main() -> None:
    """Measure what is missing, row by row, and print the table."""
    args = _arguments()
    network = load_model(args.model)
    calibration, test = open_samples(args.calibration), open_samples(args.test)
    rows = read_csv(args.out)
    points = [(*setting, F, seed) for setting in SETTINGS for F in BUDGETS for seed in SEEDS[: args.seeds]]
    for point in points:
        key = dict(zip((*KEYS, "seed"), map(str, point), strict=True))
        if any(key.items() <= row.items() for row in rows):
            continue
        workers, placement, comm_budget, compute_budget, seed = point
        options = Options(workers, comm_budget, placement, seed=seed, compute_budget=compute_budget)
        rows.append(key | _measured(network, calibration, test, options))
        print(*rows[-1].values(), flush=True)
        write_csv(args.out, rows)
    print(_table(rows))


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


def _measured(network: Network, calibration: Samples, test: Samples, options: Options) -> Row:
    """What a network comes to that is restructured with these options."""
    cut = restructure(network, calibration, options)
    found = compare(network, cut.network, test).findings()
    return {
        "values_sent": str(cut.traffic_matrix().sum()),
        "compute_fraction": f"{compute_fraction(network, cut, options):.3f}",
        "neurons_removed": str(sum(int(removed.sum()) for removed in cut.plan.removed.values())),
        "accuracy": f"{found['accuracy']:.4f}",
        "output_error": f"{found['output_error']:.5f}",
    }


def _table(rows: list[Row]) -> str:
    """A line for each budget; means over the seeds."""
    names = ("P", "input", "budget", "computation", "values", "done", "neurons removed", "accuracy", "error")
    formats = {
        "values_sent": ",.0f",
        "compute_fraction": ".3f",
        "neurons_removed": ",.0f",
        "accuracy": ".4f",
        "output_error": ".4f",
    }
    return mean_table(names, rows, KEYS, formats)


if __name__ == "__main__":
    main()
