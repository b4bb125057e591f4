"""Accuracy against communication for the methods of the product, as CSV and as a Markdown table.

    python scripts/accuracy_table.py MODEL --calibration DATA --test DATA --workers 8 --out table.csv

Every entry restructures anew from the same model and calibration data; the test data only report.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.team import ALONE
from repurpose_hpc.studies.accuracy.study import AccuracyStudy, compute, open_study
from repurpose_hpc.studies.accuracy.table import AccuracyTable
from repurpose_hpc.studies.table import Row

BUDGETS = (0.1, 0.05, 0.02, 0.01, 0.005, 0.0035)

# (input placement, method, assignment)
COLUMNS = (
    ("replicated", "data", "munkres"),
    ("partitioned", "data", "munkres"),
    ("partitioned", "data", "contiguous"),
    ("partitioned", "second-moment", "munkres"),
    ("partitioned", "frobenius", "munkres"),
    ("partitioned", "magnitude", "munkres"),
    ("partitioned", "magnitude", "hypergraph"),
    ("partitioned", "magnitude", "random"),
    ("partitioned", "magnitude", "contiguous"),
)


def main() -> None:
    """Fill the table, a row at a time; a second call computes only what is missing."""
    args = arguments(__doc__)
    fill(args, open_study(args.model, args.calibration, args.test), COLUMNS, BUDGETS)


def fill(
    args: argparse.Namespace,
    study: AccuracyStudy,
    columns: Sequence[tuple[str, str, str]],
    budgets: Sequence[float],
) -> dict[tuple, Row]:
    """Compute what is missing in the table, and print it with a row for each budget.

    Returns:
        its rows, by column and budget.
    """
    points = {
        (placement, method, assignment, budget): Options(args.workers, budget, placement, assignment, method)
        for placement, method, assignment in columns
        for budget in budgets
    }
    table = AccuracyTable(args.out, study.origin())
    if compute(study, list(points.values()), table, ALONE, lambda line: print(line, flush=True)):
        sys.exit(f"some points failed, see column error of {args.out}")
    rows = {name: table.find(options) for name, options in points.items()}
    print(f"original: {next(iter(rows.values()))['test_reference_accuracy']:.4f}")
    titles = [f"{method}, {assignment}, {placement} input" for placement, method, assignment in columns]
    lines = [f"| budget | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for budget in budgets:
        accuracies = [f"{rows[(*column, budget)]['test_accuracy']:.4f}" for column in columns]
        lines.append(f"| {budget} | {' | '.join(accuracies)} |")
    print("\n".join(lines))
    return rows


def arguments(description: str) -> argparse.Namespace:
    """The command line of a script that fills a table from a model, calibration data and test data."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True, help="the CSV file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
