"""Accuracy against communication for the methods of the product, as CSV and as a Markdown table.

    python scripts/accuracy_table.py MODEL --calibration DATA --test DATA --workers 8 --out table.csv

Every entry restructures anew from the same model and calibration data; the test data only report.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np

from repurpose_hpc.data import Samples, open_samples
from repurpose_hpc.model.load import load_model
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.reference import forward
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.restructure import restructure

BUDGETS = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005)

# (input placement, method, assignment)
COLUMNS = (
    ("partitioned", "magnitude", "contiguous"),
    ("partitioned", "magnitude", "munkres"),
    ("partitioned", "frobenius", "munkres"),
    ("partitioned", "data", "munkres"),
    ("replicated", "data", "munkres"),
)


def main() -> None:
    """Fill the table, writing the CSV row by row."""
    args = _arguments()
    network, calibration, test = (
        load_model(args.model),
        open_samples(args.calibration),
        open_samples(args.test),
    )
    print(f"original: {accuracy(network, test):.4f}", flush=True)
    rows = []
    with open(args.out, "w", newline="") as file:
        for placement, method, assignment in COLUMNS:
            for budget in BUDGETS:
                options = Options(args.workers, budget, placement, assignment, method)
                rows.append(measure(network, calibration, test, options))
                if len(rows) == 1:
                    table = csv.DictWriter(file, rows[0])
                    table.writeheader()
                table.writerow(rows[-1])
                file.flush()
                print(rows[-1], flush=True)
    print(markdown(rows))


def measure(network: Network, calibration: Samples, test: Samples, options: Options) -> dict:
    """One entry of the table: restructure with ``options`` and report on ``test``."""
    began = time.perf_counter()
    result = restructure(network, calibration, options, log=lambda line: None)
    seconds = time.perf_counter() - began
    sent = sum(result.plan.values_sent(network, mixing) for mixing in network.mixings)
    dense = sum(result.plan.dense_values(network, mixing) for mixing in network.mixings)
    return {
        "input_placement": options.input_placement,
        "method": options.method,
        "assignment": options.assignment,
        "comm_budget": options.comm_budget,
        "comm_fraction": round(sent / dense, 6),
        "values_sent": sent,
        "accuracy": round(accuracy(result.network, test), 4),
        "seconds": round(seconds, 1),
    }


def accuracy(network: Network, test: Samples) -> float:
    """Share of the test samples that ``network`` classifies as labelled."""
    found = np.concatenate([forward(network, batch).argmax(axis=1) for batch in test.batches(2000)])
    return float(np.mean(found == test.labels))


def markdown(rows: list[dict]) -> str:
    """The table with a row for each budget and a column for each method."""
    found = {
        (row["input_placement"], row["method"], row["assignment"], row["comm_budget"]): row["accuracy"]
        for row in rows
    }
    titles = [f"{method}, {assignment}, {placement} input" for placement, method, assignment in COLUMNS]
    lines = [f"| budget | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    lines += [
        f"| {budget} | {' | '.join(f'{found[(*column, budget)]:.4f}' for column in COLUMNS)} |"
        for budget in BUDGETS
    ]
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True, help="the CSV file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
