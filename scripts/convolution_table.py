"""Accuracy against communication for a network of convolutions, beside partitions that change no weight.

    python scripts/convolution_table.py MODEL --calibration DATA --test DATA --workers 4 --out table.csv

What the two others send is counted, not run: the channels split as they are, every worker sending what others
read (narrow layers as partial sums), and the maps split into rectangles (see ``halo``).  Both reproduce the
original network.
"""

import numpy as np
from accuracy_table import arguments, fill
from halo import halo_partition, layers_of

from repurpose_hpc.plan.plan import dense_plan
from repurpose_hpc.studies.accuracy.study import open_study

BUDGETS = (0.2, 0.1, 0.05)

# (input placement, method, assignment)
COLUMNS = (
    ("replicated", "data", "munkres"),
    ("replicated", "frobenius", "munkres"),
    ("replicated", "magnitude", "contiguous"),
)


def main() -> None:
    """Count the other partitions, then fill the table."""
    args = arguments(__doc__)
    study = open_study(args.model, args.calibration, args.test)
    network = study.network
    plan = dense_plan(network, args.workers, "replicated", np.ones(args.workers))
    dense = sum(plan.dense_values(network, mixing) for mixing in network.mixings)
    channels = sum(plan.values_sent(network, mixing) for mixing in network.mixings)
    halo = halo_partition(layers_of(network), args.workers)
    print(f"{args.workers} workers, dense: {dense:,} values per sample")
    print(f"channels as they are: {channels:,} values, fraction {channels / dense:.4f}")
    grid = " x ".join(map(str, halo.grid))
    print(f"positions ({grid}): {halo.total:,} values, fraction {halo.total / dense:.4f}", flush=True)
    rows = fill(args, study, COLUMNS, BUDGETS)
    for budget in BUDGETS:
        row = rows[(*COLUMNS[0], budget)]
        loss = 100 * (row["test_reference_accuracy"] - row["test_accuracy"])
        share = row["weights_kept"] / args.workers / network.weight_count
        print(
            f"budget {budget}: {loss:.2f} points lost, a worker holds {share:.1%} of the weights on average"
        )


if __name__ == "__main__":
    main()
