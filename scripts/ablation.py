"""The share of each ingredient in the method: the full method, and the same without one of them.

    python scripts/ablation.py MODEL --calibration DATA --test DATA --out docs/results/ablation.csv

Every entry restructures anew from the same model and calibration data; the test data only report.  The full
method is run with three seeds.  Prints a Markdown table.
"""

import csv
from dataclasses import replace

from accuracy_table import arguments

from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.plan.masks import GHOST, MIXED
from repurpose_hpc.restructure.calibration.evaluation import evaluate
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.method import DATA, Metric, PriceScope
from repurpose_hpc.restructure.options import Options

SETTINGS = (("partitioned", 0.02), ("replicated", 0.005))
SEEDS = (0, 1, 2)

VARIANTS = {
    "full method": DATA,
    "without the metric of the output": replace(DATA, metric=Metric.FLAT),
    "uniform budgets": replace(DATA, price=PriceScope.MIXING),
    "without look-ahead": replace(DATA, look_ahead=0),
    "without alternation": replace(DATA, alternations=1),
    "ghost form only": replace(DATA, forms=frozenset({GHOST})),
    "one form per mixing": replace(DATA, forms=DATA.forms - {MIXED}),
    "what is sent selected once": replace(DATA, reselect=False),
    "rows adjusted one by one": replace(DATA, reselect=False, compensation=0),
}


def main() -> None:
    """Measure all variants in all settings."""
    args = arguments(__doc__)
    network = load_model(args.model)
    calibration, test = open_samples(args.calibration), open_samples(args.test)

    def accuracy(variant: str, options: Options) -> float:
        result = restructure(network, calibration, options, method=VARIANTS[variant])
        return evaluate(network, result.network, test)["accuracy"]

    cases = [(variant, *setting, seed) for variant in VARIANTS for setting in SETTINGS for seed in SEEDS]
    rows = []
    for variant, placement, budget, seed in cases:
        if seed and variant != "full method":
            continue
        measured = accuracy(variant, Options(args.workers, budget, placement, seed=seed))
        rows.append((variant, placement, budget, seed, round(measured, 4)))
        print(*rows[-1], flush=True)
    with open(args.out, "w", newline="") as file:
        csv.writer(file).writerows([("variant", "input_placement", "budget", "seed", "accuracy"), *rows])
    print(markdown(rows))


def markdown(rows: list[tuple]) -> str:
    """A line for each variant; several seeds side by side."""
    lines = ["| | " + " | ".join(f"{placement} {budget}" for placement, budget in SETTINGS) + " |"]
    lines.append("|---" * (len(SETTINGS) + 1) + "|")
    for variant in VARIANTS:
        cells = [
            " ".join(f"{accuracy:.4f}" for *case, _, accuracy in rows if case == [variant, *setting])
            for setting in SETTINGS
        ]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
