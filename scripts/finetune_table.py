"""What fine-tuning wins back, as CSV, as a Markdown table and as a picture.

    python scripts/finetune_table.py MODEL --calibration DATA --train DATA --test DATA \
        --input-placement replicated --budgets 0.01 0.005 0.0035 --learning-rate 1e-4 --epochs 20 \
        --work DIR --out docs/results/finetuning.csv

MODEL is restructured with the calibration data for every budget, and tuned on the training data, without
their labels: its outputs are the targets.  Training data are held out to say which epoch is best; test data
only report.  A further call adds rows, and computes only those that are missing; shards stay in DIR.
The epochs of all rows go into ``NAME_epochs.csv``, and the picture, which needs matplotlib, is ``NAME.png``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rows import mean_table, read_csv, write_csv

from repurpose_hpc.plan.files.store import open_plan

COMMAND = [sys.executable, "-m", "repurpose_hpc"]
KEYS = ("model", "train", "input_placement", "budget")


def main() -> None:
    """Fill the table, a row at a time, then draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    for name in ("calibration", "train", "test", "work", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--input-placement", default="replicated")
    parser.add_argument("--budgets", type=float, nargs="+", required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--ranks", type=int, default=2)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows, epochs_file = read_csv(args.out), args.out.with_name(f"{args.out.stem}_epochs.csv")
    epochs = read_csv(epochs_file)
    for budget in args.budgets:
        point = args.model.stem, args.train.stem, args.input_placement, str(budget)
        key = dict(zip(KEYS, point, strict=True))
        if any(key.items() <= row.items() for row in rows):
            continue
        row, curve = tuned(args, budget)
        rows.append(key | row)
        epochs += [key | {name: str(value) for name, value in epoch.items()} for epoch in curve]
        print(*rows[-1].values(), flush=True)
        write_csv(args.out, rows)
        write_csv(epochs_file, epochs)
    formats = {name: ".4f" for name in ("reference_accuracy", "accuracy_before", "accuracy")}
    formats |= {"values": ",.0f", "best_epoch": ".0f", "seconds_per_epoch": ".1f"}
    print(mean_table((*KEYS, *formats), rows, KEYS, formats))
    draw(rows, epochs, args.out.with_suffix(".png"))


def tuned(args: argparse.Namespace, budget: float) -> tuple[dict[str, str], list[dict]]:
    """A row of the table, and its epochs."""
    shards = args.work / f"{args.model.stem}_{args.input_placement}_{budget}"
    out = shards.with_name(f"{shards.name}_{args.train.stem}_tuned")
    restructuring = ["--workers", str(args.workers), "--input-placement", args.input_placement]
    if not shards.exists():
        run(
            ["restructure", args.model, "--calibration", args.calibration, "--out", shards]
            + [*restructuring, "--comm-budget", str(budget)]
        )
    launch = ["mpirun", "-n", str(args.ranks)]
    words = ["finetune", "--shards", shards, "--data", args.train, "--distill", args.model, "--out", out]
    schedule = ["--epochs", args.epochs, "--patience", args.epochs, "--learning-rate", args.learning_rate]
    report = run([*words, *schedule], launch)
    before, after = (
        run(["infer", args.model, "--shards", each, "--input", args.test, "--repeat", "0"], launch)
        for each in (shards, out)
    )
    measured = {
        "reference_accuracy": before["reference_accuracy"],
        "accuracy_before": before["accuracy"],
        "accuracy": after["accuracy"],
        "values": values_of(shards),
        "values_after": values_of(out),
        "best_epoch": report["best_epoch"],
        "epochs": report["epochs"][-1]["epoch"],
        "seconds_per_epoch": median(epoch["seconds"] for epoch in report["epochs"][1:]),
        "peak_memory_mib": report["peak_memory_mib"],
        "ranks": args.ranks,
        "learning_rate": args.learning_rate,
    }
    return {name: str(value) for name, value in measured.items()}, report["epochs"]


def values_of(shards: Path) -> int:
    """Values per sample that cross between the workers of a plan."""
    return int(open_plan(shards).traffic_matrix().sum())


def run(words: Sequence[object], launch: Sequence[str] = ()) -> dict[str, Any]:
    """The report of a command."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        command = [*launch, *COMMAND, *map(str, words), "--report", str(report)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(report.read_text(encoding="utf-8"))


def draw(rows: Sequence[dict[str, str]], epochs: Sequence[dict[str, str]], path: Path) -> None:
    """Loss and agreement on held-out samples against epochs, and against the values that were sent.

    A step sends the values of the plan forward, and as many back.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4))
    for name in dict.fromkeys(tuple(epoch[key] for key in KEYS) for epoch in epochs):
        curve = [epoch for epoch in epochs if tuple(epoch[key] for key in KEYS) == name]
        numbers = [int(epoch["epoch"]) for epoch in curve]
        loss = [float(epoch["held_out_loss"]) for epoch in curve]
        (values,) = (float(row["values"]) for row in rows if tuple(row[key] for key in KEYS) == name)
        right = [100 * float(epoch["held_out_accuracy"]) for epoch in curve]
        sent = [2 * number * values for number in numbers]
        label = " ".join(name)
        axes[0].plot(numbers, loss, marker=".", label=label)
        axes[1].plot(numbers, right, marker=".", label=label)
        axes[2].plot(sent[1:], loss[1:], marker=".", label=label)
    axes[0].set(xlabel="epoch", ylabel="loss on held-out samples", yscale="log")
    axes[1].set(xlabel="epoch", ylabel="same class as the original, %")
    axes[2].set(xlabel="values sent per sample, all epochs", ylabel="loss", xscale="log", yscale="log")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
