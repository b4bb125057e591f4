"""Held-out calibration data and the trust of step 3.7, as CSV and as a Markdown table.

    python scripts/selection_table.py MODEL --calibration DATA --out docs/results/selection.csv

Every entry restructures with four in five of the calibration data, and compares the classes of both networks
on the rest: KL is the mean divergence of their probabilities.  ``none`` is the method without the step.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from rows import markdown, write_csv
from scipy.special import log_softmax

from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.network import Network
from repurpose_hpc.restructure import joint
from repurpose_hpc.restructure.driver import restructure
from repurpose_hpc.restructure.held_out import split
from repurpose_hpc.restructure.options import Options, method_for

WORKERS, SEED = 8, 0
SETTINGS = tuple(
    (placement, budget, forms)
    for placement, budget in (("partitioned", 0.02), ("replicated", 0.005))
    for forms in ("ghosts,sums", "ghosts,sums,relays")
)
TRUSTS = (None, 0.03, 0.2, 2.0)


def main() -> None:
    """Measure, row by row, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True, metavar="DATA")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.csv")
    args = parser.parse_args()
    network, parts = load_model(args.model), split(open_samples(args.calibration), SEED)
    x = np.concatenate([*parts.held_out.batches(1000)])
    original, rows = log_probabilities(network, x), []
    for placement, budget, forms in SETTINGS:
        options = Options(WORKERS, budget, placement, seed=SEED, forms=tuple(forms.split(",")))
        for trust in TRUSTS:
            method = replace(method_for(options), reselect=trust is not None)
            joint.SELECTION_TRUST = trust or 0.0
            cut = restructure(network, parts.rest, options, method=method)
            divergence = original - log_probabilities(cut.network, x)
            kl = (np.exp(original) * divergence).sum(axis=1).mean()
            cells = (placement, str(budget), forms, "none" if trust is None else f"{trust:g}", f"{kl:.4f}")
            rows.append(dict(zip(("input_placement", "budget", "forms", "trust", "kl"), cells, strict=True)))
            print(*cells, flush=True)
            write_csv(args.out, rows)
    names = ("input", "budget", "forms", "trust", "KL")
    print(markdown(names, [[*row.values()] for row in rows]))


def log_probabilities(network: Network, x: np.ndarray) -> np.ndarray:
    """Of the classes, (samples, classes), of a network that gives logits."""
    return log_softmax(forward(network, x).astype(np.float64), axis=1)


if __name__ == "__main__":
    main()
