"""Accuracy with and without relays, as CSV and as a Markdown table.

    python scripts/relay_table.py MODEL --calibration DATA --test DATA --out docs/results/relays.csv

Every entry restructures anew from the same model and calibration data, a network on vectors with three seeds,
one on maps with one; the test data only report.  A second call computes only what is missing.
"""

from __future__ import annotations

import time

from accuracy_table import arguments
from rows import mean_table, read_csv, write_csv

from repurpose_hpc.restructure.calibration.evaluation import compare
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.studies.accuracy.study import open_study

BUDGETS = {"partitioned": (0.05, 0.02, 0.01, 0.005), "replicated": (0.005, 0.0035, 0.002)}
FORMS = ("ghosts,sums", "ghosts,sums,relays")
SEEDS = (0, 1, 2)
BUDGETS_ON_MAPS = {"replicated": (0.1, 0.05, 0.2)}
SEEDS_ON_MAPS = (0,)
KEYS = ("input_placement", "budget", "forms")


def main() -> None:
    """Measure what is missing, row by row, and print the table."""
    args = arguments(__doc__)
    study = open_study(args.model, args.calibration, args.test)
    network = study.network
    on_maps = any(network.positions_of.values())
    rows = read_csv(args.out)
    points = [
        (placement, budget, forms, seed)
        for placement, budgets in (BUDGETS_ON_MAPS if on_maps else BUDGETS).items()
        for budget in budgets
        for forms in FORMS
        for seed in (SEEDS_ON_MAPS if on_maps else SEEDS)
    ]
    for point in points:
        key = dict(zip((*KEYS, "seed"), map(str, point), strict=True))
        if any(key.items() <= row.items() for row in rows):
            continue
        placement, budget, forms, seed = point
        began = time.perf_counter()
        options = Options(args.workers, budget, placement, seed=seed, forms=tuple(forms.split(",")))
        cut = restructure(network, study.calibration, options)
        seconds = time.perf_counter() - began
        found = compare(network, cut.network, study.test).findings()
        measured = {
            "values_sent": int(cut.traffic_matrix().sum()),
            "accuracy": round(found["accuracy"], 4),
            "output_error": round(found["output_error"], 5),
            "seconds": round(seconds, 1),
        }
        rows.append(key | {name: str(value) for name, value in measured.items()})
        print(*rows[-1].values(), flush=True)
        write_csv(args.out, rows)
    print(_table(rows))


def _table(rows: list[dict[str, str]]) -> str:
    """A line for each budget; means over the seeds."""
    names = ("input", "budget", "forms", "values", "accuracy", "output error", "seconds")
    formats = {"values_sent": ",.0f", "accuracy": ".4f", "output_error": ".4f", "seconds": ".0f"}
    return mean_table(names, rows, KEYS, formats)


if __name__ == "__main__":
    main()
