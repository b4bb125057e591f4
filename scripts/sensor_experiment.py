"""Accuracy against communication and modelled time in the paper's sensor setting (arXiv 2008.08289).

    python scripts/sensor_experiment.py

writes ``docs/results/sensor_experiment.csv``, and beside it the two figures and the table.
The first run trains the networks (12 minutes with one thread on a busy machine) and keeps them in ``--out``.
Then 30 entries are restructured, about 1 minute each, more at the largest budget.  Results are kept too,
for the code and the networks that they were made with: after a change to the method the same command
measures anew, after an interruption it goes on.

Setting, counts and the model of time: ``sensor_setting.py``.  Needs the extras ``train`` and ``plot``, and
the Debian package ``dataset-fashion-mnist``.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import sensor_report
import sensor_setting
from sensor_setting import (
    PLATFORMS,
    SENSORS,
    SampleCost,
    direct_plan,
    everywhere_cost,
    independent_plan,
    one_worker_plan,
    plan_cost,
)

import repurpose_hpc
from repurpose_hpc.io.samples import Samples, open_samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.labels import understood
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.quality import Accuracy, LabelRows
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.options import Options

ROOT = Path(__file__).resolve().parent.parent
BUDGETS = (0.1, 0.03, 0.01, 0.003, 0.0015, 0.001)

# (name in the results, method, assignment, forms; None: all that may be): a further method is one more line.
METHODS = (
    ("naive sparsification", "magnitude", "contiguous", None),
    ("second moments, one shot", "second-moment", "munkres", None),
    ("RePurpose, Frobenius", "frobenius", "munkres", None),
    ("full method without relays", "data", "munkres", ("ghosts", "sums")),
    ("full method", "data", "munkres", None),
)
FILES = ("original", "summed", "fused", "calibration", "test")


@dataclass(frozen=True, eq=False)
class Experiment:
    """Networks and samples of all entries."""

    original: Network
    summed: Network
    fused: Network
    calibration: Samples
    test: Samples

    @property
    def dense_values(self) -> int:
        """Values that direct parallel sends; communication fractions are relative to them."""
        return plan_cost(self.original, direct_plan(self.original)).values_sent


@dataclass(frozen=True)
class Entry:
    """One row of the results; ``measure`` returns the network that runs and what it costs."""

    name: str
    budget: float | None
    measure: Callable[[], tuple[Network, SampleCost]]


def main() -> None:
    """Train what is missing, measure what is missing, then write table and figures."""
    args = _arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    if not all((args.out / f"{name}.npz").exists() for name in FILES):
        from sensor_networks import prepare  # needs PyTorch, which nothing else here does

        prepare(args.out)
    experiment = _load(args.out)
    results = args.out / f"results-{_identity(experiment)}.csv"
    measure_missing(experiment, results)
    shutil.copyfile(results, args.results / "sensor_experiment.csv")
    sensor_report.write(args.results)


def entries(experiment: Experiment) -> Iterator[Entry]:
    """Every row of the results: the baselines without a budget first, then each budget, cheapest first."""
    original, summed, fused = experiment.original, experiment.summed, experiment.fused
    yield Entry("inputs to all", None, lambda: (original, everywhere_cost(original)))
    for name, network, plan in (
        ("inputs to one worker", original, one_worker_plan(original)),
        ("direct parallel", original, direct_plan(original)),
        ("independent, summed", summed, independent_plan(summed, fused=False)),
        ("independent, fused", fused, independent_plan(fused, fused=True)),
    ):
        yield Entry(name, None, partial(_planned, network, plan))
    for budget in reversed(BUDGETS):
        for name, method, assignment, forms in METHODS:
            options = Options(SENSORS, budget, "partitioned", assignment, method, forms=forms)
            yield Entry(name, budget, partial(_restructured, experiment, options))


def measure_missing(experiment: Experiment, results: Path) -> None:
    """Append to ``results`` every entry that it does not hold yet."""
    known = {(row["name"], row["comm_budget"]) for row in sensor_report.read(results)}
    for entry in entries(experiment):
        if (entry.name, "" if entry.budget is None else str(entry.budget)) in known:
            continue
        row = _measure(experiment, entry)
        with open(results, "a", newline="") as file:
            table = csv.DictWriter(file, row)
            if not file.tell():
                table.writeheader()
            table.writerow(row)
        print(row, flush=True)


def _measure(experiment: Experiment, entry: Entry) -> dict:
    began = time.perf_counter()
    network, cost = entry.measure()
    seconds = time.perf_counter() - began
    return {
        "name": entry.name,
        "comm_budget": entry.budget,
        "comm_fraction": round(cost.values_sent / experiment.dense_values, 6),
        "values_sent": cost.values_sent,
        "busiest_weights": int(cost.weights.max()),
        "busiest_received": int(cost.received.max(axis=1).sum()),
        "accuracy": round(accuracy(network, experiment.test), 4),
        **{f"{name}_us": round(cost.seconds(platform) * 1e6, 4) for name, platform in PLATFORMS.items()},
        "seconds": round(seconds, 1),
    }


def accuracy(network: Network, test: Samples) -> float:
    """Share of the test samples that ``network`` classifies as labelled."""
    test = understood(network, test)
    assert test.y is not None
    found, labels = Accuracy(network, test), LabelRows(test.y)
    for batch in test.batches(2000):
        found.add(forward(network, batch), labels.take(len(batch)))
    return found.findings()["accuracy"]


def _planned(network: Network, plan: Plan) -> tuple[Network, SampleCost]:
    return network, plan_cost(network, plan)


def _restructured(experiment: Experiment, options: Options) -> tuple[Network, SampleCost]:
    result = restructure(experiment.original, experiment.calibration, options, log=lambda line: None)
    return _planned(result.network, result.plan)


def _load(out: Path) -> Experiment:
    networks = (load_model(out / f"{name}.npz") for name in FILES[:3])
    return Experiment(*networks, *(open_samples(out / f"{name}.npz") for name in FILES[3:]))


def _identity(experiment: Experiment) -> str:
    """A digest of what the results depend on: the code that restructures and counts, networks, samples."""
    digest = hashlib.sha256()
    package = Path(repurpose_hpc.__file__).parent
    for source in (
        *sorted(package.glob("restructure/**/*.py")),
        *sorted(package.glob("plan/*.py")),
        sensor_setting.__file__,
    ):
        digest.update(Path(source).read_bytes())
    for network in (experiment.original, experiment.summed, experiment.fused):
        digest.update(network.fingerprint().encode())
    for samples in (experiment.calibration, experiment.test):
        digest.update(samples.fingerprint().encode())
    return digest.hexdigest()[:12]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build/sensor_experiment", help="networks, results"
    )
    parser.add_argument(
        "--results", type=Path, default=ROOT / "docs/results", help="where table and figures go"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
