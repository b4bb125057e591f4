"""What layers by position send and compute, counted in plans that prune nothing, as a Markdown table.

    python scripts/position_counts.py MODEL [--workers 4 8]

A row for each number of layers that ``--by-position auto`` tries.  Values are relative to a dense exchange,
multiply-adds of the busiest worker to those without halos that are computed.  Weights do not matter: the
network need not be trained.
"""

import argparse
from pathlib import Path

import numpy as np

from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.tiles import most_multiply_adds, tiles_of
from repurpose_hpc.plan.plan import dense_plan
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.positions import candidates
from repurpose_hpc.restructure.sharing import Sharing, cheapest

TITLES = ("P", "layers", "halos, maps brought together", "everything", "halos all sent", "multiply-adds")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 8])
    args = parser.parse_args()
    network = load_model(args.model, check=False)
    print(f"| {' | '.join(TITLES)} |", "|---" * len(TITLES) + "|", sep="\n")
    for workers in args.workers:
        for layers in candidates(network, Options(workers)):
            sharing = cheapest(network, Options(workers), layers)
            if sharing.division is not None:
                print(f"| {' | '.join(row(network, workers, sharing))} |", flush=True)


def row(network: Network, workers: int, sharing: Sharing) -> tuple[str, ...]:
    """The columns of a row."""
    all_sent = sharing._replace(repeated=0)
    halos, everything = fractions(network, workers, sharing)
    _, more = fractions(network, workers, all_sent)
    work = [
        most_multiply_adds(network, tiles_of(network, each.layers, each.division, each.repeated))
        for each in (sharing, all_sent)
    ]
    shares = (f"{share:.4f}" for share in (halos, everything, more))
    return str(workers), str(sharing.layers), *shares, f"{work[0] / work[1]:.2f}"


def fractions(network: Network, workers: int, sharing: Sharing) -> tuple[float, float]:
    """What fixed mixings send, which cannot be pruned, and what all do, of a dense exchange."""
    cut = sharing.of(network, Options(workers))
    plan = dense_plan(cut, workers, "replicated", np.ones(workers))
    dense = sum(plan.dense_values(cut, mixing) for mixing in cut.mixings)
    sent = {mixing: plan.values_sent(cut, mixing) for mixing in cut.mixings}
    fixed = sum(values for mixing, values in sent.items() if mixing.fixed)
    return fixed / dense, sum(sent.values()) / dense


if __name__ == "__main__":
    main()
