"""Accuracy against communication for a network of convolutions, beside partitions that change no weight.

    python scripts/convolution_table.py MODEL --calibration DATA --test DATA --workers 4 --out table.csv

The two others reproduce the original network: the channels split as they are, every worker sending what
others read (narrow layers as partial sums), and all maps shared out by position.
"""

import numpy as np
from accuracy_table import arguments, fill

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.tiles import tileable
from repurpose_hpc.plan.plan import dense_plan
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.sharing import cheapest
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
    dense, channels = exact_values(network, args.workers)
    options = Options(args.workers)
    _, positions = exact_values(
        cheapest(network, options, tileable(network)).of(network, options), args.workers
    )
    print(f"{args.workers} workers, dense: {dense:,} values per sample")
    print(f"channels as they are: {channels:,} values, fraction {channels / dense:.4f}")
    print(f"positions: {positions:,} values, fraction {positions / dense:.4f}", flush=True)
    rows = fill(args, study, COLUMNS, BUDGETS)
    for budget in BUDGETS:
        row = rows[(*COLUMNS[0], budget)]
        loss = 100 * (row["test_reference_accuracy"] - row["test_accuracy"])
        share = row["weights_kept"] / args.workers / network.weight_count
        print(
            f"budget {budget}: {loss:.2f} points lost, a worker holds {share:.1%} of the weights on average"
        )


def exact_values(network: Network, workers: int) -> tuple[int, int]:
    """Values per sample of a dense exchange, and of the plan that prunes nothing."""
    plan = dense_plan(network, workers, "replicated", np.ones(workers))
    dense = sum(plan.dense_values(network, mixing) for mixing in network.mixings)
    return dense, sum(plan.values_sent(network, mixing) for mixing in network.mixings)


if __name__ == "__main__":
    main()
