"""Accuracy against communication with layers by position beside channels alone, as CSV.

    python scripts/position_table.py MODEL --calibration DATA --test DATA --workers 8 --out table.csv

Every row restructures anew, with the number of layers by position that held-out calibration samples choose,
and without any; the test data only report.  A second call computes only what is missing.
"""

import csv
from pathlib import Path

from accuracy_table import arguments

from repurpose_hpc.io.atomic import write_csv
from repurpose_hpc.model.tiles import Division, tiled
from repurpose_hpc.restructure.calibration.evaluation import compare
from repurpose_hpc.restructure.job import restructure_network
from repurpose_hpc.restructure.team import ALONE
from repurpose_hpc.studies.accuracy.study import AccuracyStudy, open_study

BUDGETS = (0.1, 0.05)
COLUMNS = (
    *("model", "workers", "budget", "by_position", "layers", "values_sent", "dense_values", "comm_fraction"),
    *("test_reference_accuracy", "test_accuracy", "points_lost", "test_output_error"),
)


def main() -> None:
    """Fill the table, a row at a time."""
    args = arguments(__doc__)
    study = open_study(args.model, args.calibration, args.test)
    rows = _read(args.out)
    known = {(row["model"], row["workers"], row["budget"], row["by_position"]) for row in rows}
    for budget in BUDGETS:
        for by_position in ("0", "auto"):
            if (args.model.stem, str(args.workers), str(budget), by_position) in known:
                continue
            row = {"model": args.model.stem, "workers": args.workers, "budget": budget}
            rows.append(
                row | {"by_position": by_position} | measured(study, args.workers, budget, by_position)
            )
            write_csv(args.out, COLUMNS, rows)
            print(rows[-1], flush=True)


def measured(study: AccuracyStudy, workers: int, budget: float, by_position: str) -> dict:
    """The columns of a row that are measured."""
    number = by_position if by_position == "auto" else int(by_position)
    cut = restructure_network(
        study.network, study.calibration, workers=workers, comm_budget=budget, by_position=number
    )
    record = cut.provenance.get("by_position")
    shared = study.network
    if record is not None:
        shared = tiled(shared, record["layers"], Division.of(record["division"]), record["repeated"])
    found = compare(shared, cut.network, study.test, ALONE).findings()
    lost = 100 * (found["reference_accuracy"] - found["accuracy"])
    return {
        "layers": 0 if record is None else record["layers"],
        **{name: cut.report[name] for name in ("values_sent", "dense_values", "comm_fraction")},
        "test_reference_accuracy": found["reference_accuracy"],
        "test_accuracy": found["accuracy"],
        "points_lost": round(lost, 2),
        "test_output_error": found["output_error"],
    }


def _read(path: Path) -> list[dict]:
    """The rows of an earlier call."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [*csv.DictReader(file)]


if __name__ == "__main__":
    main()
