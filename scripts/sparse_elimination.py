"""What elimination saves of what hypergraph owners send: a pruned network, lossless and lossy.

    python scripts/sparse_elimination.py MODEL --calibration DATA --test DATA --densities 0.1 0.05 \\
        --budgets 0.02 0.01 0.005 --out docs/results/sparse_elimination.csv

MODEL is pruned to each density (``restructure --density`` for one worker, adjusted), and what that leaves is
the network that all rows begin with.  *owners alone*: nothing is eliminated, owners by hypergraph.
*budget B*: what is left of it by elimination and adjustment (``--comm-budget B``).  *held-out*: accuracy on
calibration data that were held out.  Test data only report.  The input is partitioned, for eight workers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rows import markdown, write_csv

import repurpose_hpc as rp
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.weights import compact

WORKERS = 8
FORMATS = {
    "density": "g",
    "way": "",
    "weights": ",",
    "values": ",",
    "of owners alone": ".3f",
    "held-out accuracy": ".4f",
    "test accuracy": ".4f",
}


def main() -> None:
    """Fill the table, and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--densities", type=float, nargs="+", required=True)
    parser.add_argument("--budgets", type=float, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    original, samples = rp.load_model(args.model), rp.Samples.open(args.calibration)
    with np.load(args.test) as test:
        x, y = test["x"], test["y"]
    rows: list[dict[str, Any]] = []
    for density in args.densities:
        network, alone = pruned(original, samples, density), 0
        for way, result in ways(network, samples, args.budgets):
            values = result.report["values_sent"]
            alone = alone or values
            held_out = result.report["accuracy_held_out"]
            numbers = [result.network.weight_count, values, values / alone, held_out]
            row = [density, way, *numbers, accuracy(result.network, x, y)]
            rows.append(dict(zip(FORMATS, row, strict=True)))
            print(rows[-1], flush=True)
            write_csv(args.out, rows)
    lines = [[format(row[name], spec) for name, spec in FORMATS.items()] for row in rows]
    print(markdown([*FORMATS], lines))


def pruned(network: Network, samples: rp.Samples, density: float) -> Network:
    """The network with a fraction of its weights, the others adjusted."""
    left = rp.restructure_network(network, samples, workers=1, comm_budget=1.0, density=density).network
    return left.with_mixings({m.name: replace(m, weights=compact(m.weights)) for m in left.mixings})


def ways(
    network: Network, samples: rp.Samples, budgets: list[float]
) -> Iterator[tuple[str, rp.Restructured]]:
    """The network for eight workers: whole, then with less and less communication."""
    options: dict[str, Any] = {"workers": WORKERS, "input_placement": "partitioned"}
    yield (
        "owners alone",
        rp.restructure_network(network, samples, assignment="hypergraph", comm_budget=1.0, **options),
    )
    for budget in budgets:
        yield f"budget {budget:g}", rp.restructure_network(network, samples, comm_budget=budget, **options)


def accuracy(network: Network, x: np.ndarray, y: np.ndarray) -> float:
    """Of the classes of test data."""
    return float((forward(network, x, np.float32).argmax(axis=1) == y).mean())


if __name__ == "__main__":
    main()
