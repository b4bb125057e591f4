"""Sweeps with late exchanges against the exact order, of one restructured network after the other, as CSV.

    python scripts/late_table.py DIR... --workers 4 8 --budgets 0.05 0.02 --out table.csv

DIR has model.npz, calibration.npz and test.npz, as ``train_deep.py`` writes them.  Each network is
restructured once, without relays; then the test data are computed with 1, 2, ... sweeps of its weights until
nothing changes any more, and with some numbers of sweeps whose weights are adjusted to late exchanges, as
``restructure --late K`` does.  A second call computes only what is missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rows import read_csv, write_csv

from repurpose_hpc.io.samples import Samples, open_samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.late import late
from repurpose_hpc.plan.rounds import rounds_of
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.late import with_late_weights
from repurpose_hpc.restructure.options import Options

TEST_SAMPLES = 2_000


def main() -> None:
    """Fill the table, a network at a time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.05, 0.02])
    parser.add_argument("--adjusted", type=int, nargs="+", default=[2, 3, 4, 6], help="sweeps")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = read_csv(args.out)
    known = {(row["network"], row["workers"], row["budget"]) for row in rows}
    for folder in args.folders:
        network = load_model(folder / "model.npz")
        samples = network.ends.feed(open_samples(folder / "calibration.npz"), network.input_shape)
        with np.load(folder / "test.npz") as test:
            table = Table(network, test["x"][:TEST_SAMPLES], test["y"][:TEST_SAMPLES])
        for workers in args.workers:
            for budget in args.budgets:
                if (folder.name, str(workers), str(budget)) in known:
                    continue
                options = Options(workers, budget, forms=("ghosts", "sums"))
                settings = {"network": folder.name, "workers": workers, "budget": budget}
                found = [*table.rows(options, samples, args.adjusted)]
                rows += [{**settings, **row} for row in found]
                write_csv(args.out, rows)
                print(*found, sep="\n", flush=True)


class Table:
    """Outputs of a network for test data, with which others are compared.

    Args:
        network: trained.
        x: samples.
        y: their classes.
    """

    def __init__(self, network: Network, x: np.ndarray, y: np.ndarray) -> None:
        self._network, self._x, self._y = network, x.reshape(len(x), -1).astype(np.float32), y
        self._classes = self._outputs(network).argmax(axis=1)

    def rows(self, options: Options, samples: Samples, adjusted: list[int]) -> Iterator[dict[str, object]]:
        """A row for each number of sweeps, with the weights of the exact order, and with their own.

        Args:
            options: of restructuring.
            samples: calibration data.
            adjusted: numbers of sweeps with weights of their own.
        """
        cut = restructure(self._network, samples, options)
        exact = self._outputs(cut.network)
        for sweeps in range(1, rounds_of(cut.network, cut.plan) + 2):
            result = late(cut.network, cut.plan, sweeps)
            plain = Cut(result.network(cut.network), result.plan)
            held = cut.network.weight_count
            yield {"sweeps": sweeps, "weights": "exact order", **self._row(cut, exact, plain, held)}
        for sweeps in adjusted:
            own = with_late_weights(self._network, cut, sweeps, samples)
            held = own.network.weight_count
            yield {"sweeps": sweeps, "weights": "own", **self._row(cut, exact, own, held)}

    def _row(self, cut: Cut, exact: np.ndarray, late_cut: Cut, held: int) -> dict[str, object]:
        outputs = self._outputs(late_cut.network)
        classes, exact_classes = outputs.argmax(axis=1), exact.argmax(axis=1)
        return {
            "rounds": rounds_of(late_cut.network, late_cut.plan),
            "rounds_exact": rounds_of(cut.network, cut.plan),
            "values_sent": int(late_cut.traffic_matrix().sum()),
            "values_sent_exact": int(cut.traffic_matrix().sum()),
            "weights_held": held,
            "weights_held_exact": cut.network.weight_count,
            "multiply_adds": int(late_cut.plan.multiply_adds(late_cut.network).sum()),
            "multiply_adds_exact": int(cut.plan.multiply_adds(cut.network).sum()),
            "relative_difference": f"{np.abs(outputs - exact).max() / np.abs(exact).max():.3g}",
            "same_class": f"{(classes == exact_classes).mean():.4f}",
            "same_class_original": f"{(classes == self._classes).mean():.4f}",
            "accuracy": f"{(classes == self._y).mean():.4f}",
            "accuracy_exact": f"{(exact_classes == self._y).mean():.4f}",
            "accuracy_original": f"{(self._classes == self._y).mean():.4f}",
        }

    def _outputs(self, network: Network) -> np.ndarray:
        return forward(network.astype(np.float32), self._x, np.float32)


if __name__ == "__main__":
    main()
