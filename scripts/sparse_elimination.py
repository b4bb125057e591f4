"""What elimination saves of what hypergraph owners send: a pruned network, lossless and lossy.

    python scripts/sparse_elimination.py MODEL --calibration DATA --test DATA --densities 0.1 0.05 \
        --out docs/results/sparse_elimination.csv

MODEL is pruned to each density (``restructure --density`` for one worker, adjusted), and what that leaves is
the network that both rows begin with.  *owners alone*: nothing is eliminated, owners by hypergraph.
*elimination*: the least communication that loses at most ``--drop`` points of accuracy on held-out
calibration data (``--max-accuracy-drop``); owners by Munkres' assignment and by hypergraph.  Test data only
report.  The input is partitioned, for eight workers.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rows import markdown, write_csv

import repurpose_hpc as rp
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.weights import compact
from repurpose_hpc.restructure.job import Restructured

WORKERS = 8
COLUMNS = ["density", "way", "weights", "values", "of owners alone", "test accuracy"]


def main() -> None:
    """Fill the table, and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--densities", type=float, nargs="+", required=True)
    parser.add_argument("--drop", type=float, default=0.1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    original, samples = rp.load_model(args.model), rp.Samples.open(args.calibration)
    with np.load(args.test) as test:
        x, y = test["x"], test["y"]
    rows: list[dict[str, Any]] = []
    for density in args.densities:
        network = pruned(original, samples, density)
        alone = cut(network, samples, comm_budget=1.0, assignment="hypergraph")
        ways = {"owners alone": alone} | {
            f"elimination, {assignment}": cut(
                network, samples, max_accuracy_drop=args.drop, assignment=assignment
            )
            for assignment in ("munkres", "hypergraph")
        }
        for way, result in ways.items():
            values = result.report["values_sent"]
            numbers = [result.network.weight_count, values, values / alone.report["values_sent"]]
            row = dict(zip(COLUMNS, [density, way, *numbers, accuracy(result.network, x, y)], strict=True))
            rows.append(row)
            print(row, flush=True)
            write_csv(args.out, rows)
    formats = ["g", "", ",", ",", ".2f", ".4f"]
    print(
        markdown(
            COLUMNS,
            [
                [format(value, spec) for value, spec in zip(row.values(), formats, strict=True)]
                for row in rows
            ],
        )
    )


def pruned(network: Network, samples: rp.Samples, density: float) -> Network:
    """The network with a fraction of its weights, the others adjusted."""
    left = rp.restructure_network(network, samples, workers=1, comm_budget=1.0, density=density).network
    smaller = {m.name: replace(m, weights=compact(m.weights)) for m in left.mixings}
    return left.with_mixings(smaller)


def cut(network: Network, samples: rp.Samples, **options: Any) -> Restructured:
    """The network for eight workers."""
    return rp.restructure_network(
        network, samples, workers=WORKERS, input_placement="partitioned", log=print, **options
    )


def accuracy(network: Network, x: np.ndarray, y: np.ndarray) -> float:
    """Of the classes of test data."""
    return float((forward(network, x, np.float32).argmax(axis=1) == y).mean())


if __name__ == "__main__":
    main()
