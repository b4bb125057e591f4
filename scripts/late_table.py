"""Sweeps with late exchanges against the exact order, of one restructured network after the other, as CSV.

    python scripts/late_table.py DIR... --workers 4 8 --budgets 0.05 0.02 --out table.csv

DIR has model.npz, calibration.npz and test.npz, as ``train_deep.py`` writes them.  Each network is
restructured once, into DIR/shards_WORKERS_BUDGET; then the test data are computed with 1, 2, ... sweeps until
nothing changes any more.  A second call computes only what is missing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rows import read_csv, write_csv

from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.plan.late import late
from repurpose_hpc.plan.rounds import rounds_of
from repurpose_hpc.restructure.job import Restructured, restructure_network

TEST_SAMPLES = 2_000


def main() -> None:
    """Fill the table, a network at a time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.05, 0.02])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = read_csv(args.out)
    known = {(row["network"], row["workers"], row["budget"]) for row in rows}
    for folder in args.folders:
        for workers in args.workers:
            for budget in args.budgets:
                if (folder.name, str(workers), str(budget)) in known:
                    continue
                samples = open_samples(folder / "calibration.npz")
                network = load_model(folder / "model.npz")
                cut = restructure_network(network, samples, workers=workers, comm_budget=budget)
                settings = {"network": folder.name, "workers": workers, "budget": budget}
                cut.save(folder / f"shards_{workers}_{budget}")
                with np.load(folder / "test.npz") as test:
                    found = sweeps_of(cut, test["x"][:TEST_SAMPLES], test["y"][:TEST_SAMPLES])
                rows += [{**settings, **row} for row in found]
                write_csv(args.out, rows)
                print(*found, sep="\n", flush=True)


def sweeps_of(cut: Restructured, x: np.ndarray, y: np.ndarray) -> list[dict[str, object]]:
    """The rows of a network, for samples and their classes: one for each number of sweeps."""
    x = x.astype(np.float32)
    exact = forward(cut.network, x, np.float32)
    largest, classes, rows = np.abs(exact).max(), exact.argmax(axis=1), []
    rounds = rounds_of(cut.network, cut.plan)
    for sweeps in range(1, rounds + 2):
        result = late(cut.network, cut.plan, sweeps)
        outputs = forward(result.network(cut.network), x, np.float32)
        sent = sum(result.plan.values_sent(result.graph, mixing) for mixing in result.graph.mixings)
        rows.append(
            {
                "sweeps": sweeps,
                "rounds": rounds_of(result.graph, result.plan),
                "rounds_exact": rounds,
                "values_sent": sent,
                "multiply_adds": int(result.plan.multiply_adds(result.network(cut.network)).sum()),
                "multiply_adds_exact": int(cut.plan.multiply_adds(cut.network).sum()),
                "relative_difference": f"{np.abs(outputs - exact).max() / largest:.3g}",
                "same_class": f"{(outputs.argmax(axis=1) == classes).mean():.4f}",
                "accuracy": f"{(outputs.argmax(axis=1) == y).mean():.4f}",
                "accuracy_exact": f"{(classes == y).mean():.4f}",
            }
        )
    return rows


if __name__ == "__main__":
    main()
