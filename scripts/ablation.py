"""What each ingredient of the method brings: the full method, and the same without one of them.

    python scripts/ablation.py MODEL --calibration DATA --test DATA --out docs/ablation.csv

Every entry restructures anew from the same model and calibration data; the test data only report.  The full
method is run with three seeds.  Prints a Markdown table.
"""

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import numpy as np
from accuracy_table import arguments

from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.restructure import adjustment
from repurpose_hpc.restructure import driver as driver
from repurpose_hpc.restructure.calibration import survey
from repurpose_hpc.restructure.calibration.evaluation import evaluate
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.owners import alternation, sweep
from repurpose_hpc.restructure.support import forms
from repurpose_hpc.restructure.support.tradeoff import price_for

SETTINGS = (("partitioned", 0.02), ("replicated", 0.005))
SEEDS = (0, 1, 2)


@contextmanager
def everything() -> Iterator[None]:
    """The full method."""
    yield


@contextmanager
def no_metric() -> Iterator[None]:
    """Errors of all neurons of a layer count alike (M = I, scaled as the metric is)."""
    measure = survey.survey

    def flat(*args: object) -> survey.Survey:
        found = measure(*args)
        flat = {name: np.trace(M) / len(M) * np.eye(len(M)) for name, M in found.metrics.items()}
        return replace(found, metrics=flat, roots={name: np.sqrt(M) for name, M in flat.items()})

    with patch.object(driver, "survey", flat):
        yield


@contextmanager
def uniform_budgets() -> Iterator[None]:
    """Every mixing sends the same fraction of its dense communication."""
    restructure_mixing = driver._Restructuring._restructure_mixing

    def alone(run: driver._Restructuring, number: int, *args: object) -> None:
        mine = run.options.comm_budget * run._dense_cost(run.mixings[number].source)
        with patch.object(driver, "price_for", lambda mixings, _: price_for(mixings[:1], mine)):
            restructure_mixing(run, number, *args)

    with patch.object(driver._Restructuring, "_restructure_mixing", alone):
        yield


@contextmanager
def only_ghosts() -> Iterator[None]:
    """No partial sums anywhere."""

    def pure(problem: forms.Problem, owner: np.ndarray) -> list:
        return [forms.ghost_tradeoff(problem, owner)]

    with patch.object(driver, "tradeoffs", pure), no_mixed_form():
        yield


@contextmanager
def no_mixed_form() -> Iterator[None]:
    """Ghosts or partial sums for a whole mixing, not both."""
    with patch.object(driver._Restructuring, "_with_mixed", lambda run, problem, owner, found, price: found):
        yield


VARIANTS: dict[str, Callable] = {
    "full method": everything,
    "without the metric of the output": no_metric,
    "uniform budgets": uniform_budgets,
    "without look-ahead": lambda: patch.object(sweep, "SWEEPS", 0),
    "without alternation": lambda: patch.object(alternation, "ALTERNATIONS", 1),
    "ghost form only": only_ghosts,
    "one form per mixing": no_mixed_form,
    "rows adjusted one by one": lambda: patch.object(adjustment, "SWEEPS", 0),
}


def main() -> None:
    """Measure all variants in all settings."""
    args = arguments(__doc__)
    network, calibration, test = (
        load_model(args.model),
        open_samples(args.calibration),
        open_samples(args.test),
    )

    def accuracy(variant: str, options: Options) -> float:
        with VARIANTS[variant]():
            result = driver.restructure(network, calibration, options, lambda line: None)
        return evaluate(network, result.network, test)["accuracy"]

    points = [(variant, *setting, seed) for variant in VARIANTS for setting in SETTINGS for seed in SEEDS]
    rows = []
    for variant, placement, budget, seed in points:
        if seed and variant != "full method":
            continue
        found = accuracy(variant, Options(args.workers, budget, placement, seed=seed))
        rows.append((variant, placement, budget, seed, round(found, 4)))
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
            " ".join(f"{accuracy:.4f}" for *point, _, accuracy in rows if point == [variant, *setting])
            for setting in SETTINGS
        ]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
