"""What ``finetune --local`` and ``--rotate`` win back and take, beside a run without, as CSV and as a table.

    python scripts/finetune_local.py MODEL --train DATA --test DATA --work DIR \
        --epochs docs/results/finetuning_epochs.csv --out docs/results/finetuning_local.csv
    python scripts/finetune_local.py MODEL --train DATA --test DATA --work DIR \
        --epochs docs/results/finetuning_epochs.csv --out docs/results/finetuning_rotate.csv \
        --points partitioned_0.0035 --ways global local rotate --seeds 0 1 2

DIR has the shards that ``finetune_table.py`` has made, and the CSV the epochs that it has tuned them for.
They are tuned to the outputs of MODEL in each way, in the same minutes, for as many epochs.  The share of the
loss on held-out samples that is left is shown beside that of the long run, and what is won by that of what it
has won.  What a step sends is counted on as many ranks as there are workers.  Test data only report.  A
second call computes only what is missing.  The table has means over seeds.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from finetune_table import KEYS, run
from rows import mean_table, read_csv, write_csv

EPOCHS = 7
# Chosen by hand, by the loss on held-out training data, at a budget or two each.
RATES = {
    ("local", "replicated"): 2e-3,
    ("local", "partitioned"): 2e-3,
    ("global", "replicated"): 1e-4,
    ("global", "partitioned"): 1e-3,
    # As without subnets.
    ("rotate", "replicated"): 1e-4,
    ("rotate", "partitioned"): 1e-3,
}
WAYS = {"local": ["--local"], "global": [], "rotate": ["--rotate", "10"]}
# Samples of the runs that only count.
FEW = 500


def main() -> None:
    """Fill the table, a row at a time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    for name in ("train", "test", "work", "epochs", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--points", nargs="+", help="such as replicated_0.005; all that the CSV has")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["local", "global"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    rows, epochs = read_csv(args.out), read_csv(args.epochs)
    points = list(dict.fromkeys(tuple(epoch[key] for key in KEYS) for epoch in epochs))
    for model, train, placement, budget in points:
        wanted = args.points is None or f"{placement}_{budget}" in args.points
        if (model, train) != (args.model.stem, args.train.stem) or not wanted:
            continue
        point = dict(zip(KEYS, (model, train, placement, budget), strict=True))
        whole = [epoch for epoch in epochs if point.items() <= epoch.items()]
        for seed, way in product(args.seeds, args.ways):
            key = point | {"way": way, "seed": str(seed)}
            if any(key.items() <= row.items() for row in rows):
                continue
            rows.append(key | tuned(args, placement, budget, way, seed, whole))
            print(*rows[-1].values(), flush=True)
            write_csv(args.out, rows)
    formats = {"loss_before": ".4f", "loss": ".4f", "share": ".2f", "accuracy": ".4f"}
    formats |= {"seconds_per_epoch": ".1f", "values_sent": ",.0f", "values_sent_back": ",.0f"}
    formats |= {"subnet_weights": ",.0f"}
    keys = (*KEYS, "way")
    print(mean_table((*keys, *formats), rows, keys, formats))


def tuned(
    args: argparse.Namespace,
    placement: str,
    budget: str,
    way: str,
    seed: int,
    whole: list[dict[str, str]],
) -> dict[str, str]:
    """A row of the table, but for its key; ``whole`` are the epochs of the long run."""
    shards = args.work / f"{args.model.stem}_{placement}_{budget}"
    out = shards.with_name(f"{shards.name}_{way}")
    launch, rate = ["mpirun", "-n", str(args.ranks)], RATES[way, placement]
    report = finetuned(args, shards, args.train, out, way, seed, rate, EPOCHS, launch)
    inference = ["infer", args.model, "--shards", out, "--input", args.test, "--repeat", "0"]
    every = ["mpirun", "-n", str(args.workers)]
    counted = finetuned(args, shards, few(args), args.work / "counted", way, seed, rate, 1, every)
    losses = [float(epoch["held_out_loss"]) for epoch in whole]
    found = [epoch["held_out_loss"] for epoch in report["epochs"]]
    measured = {
        "loss_before": found[0],
        "loss": min(found),
        "left": min(found) / found[0],
        "left_long": min(losses) / losses[0],
        "share": (1 - min(found) / found[0]) / (1 - min(losses) / losses[0]),
        "accuracy": run(inference, launch)["accuracy"],
        "epochs": EPOCHS,
        "epochs_long": len(losses) - 1,
        "learning_rate": rate,
        "ranks": args.ranks,
        "seconds_per_epoch": median(epoch["seconds"] for epoch in report["epochs"][1:]),
        "seconds": report["seconds"]["total"],
        "values_sent": counted["values_sent"],
        "values_sent_back": counted["values_sent_back"],
        "subnet_weights": report["subnet_weights"],
    }
    return {name: str(value) for name, value in measured.items()}


def finetuned(
    args: argparse.Namespace,
    shards: Path,
    data: Path,
    out: Path,
    way: str,
    seed: int,
    rate: float,
    epochs: int,
    launch: list[str],
) -> dict[str, Any]:
    """The report of a run."""
    words = ["finetune", "--shards", shards, "--data", data, "--distill", args.model, "--out", out]
    schedule = ["--epochs", epochs, "--patience", epochs, "--learning-rate", rate, "--seed", seed]
    return run([*words, *schedule, *WAYS[way]], launch)


def few(args: argparse.Namespace) -> Path:
    """The first of the samples, in a file."""
    path = args.work / "few.npz"
    if not path.exists():
        with np.load(args.train) as data:
            np.savez(path, x=data["x"][:FEW])
    return path


if __name__ == "__main__":
    main()
