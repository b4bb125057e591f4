"""Bytes and time of layers by position beside channels alone and one process, as a Markdown table.

    python scripts/position_speed.py MODEL INPUT --workers 4 --out DIR
    sudo scripts/rehearse.sh 4 1gbit python scripts/position_speed.py MODEL INPUT --workers 4 --out DIR

Shards are made once, in DIR, with the whole budget, so that all plans compute the same (``--verify``): the
whole network for one process, all channels, and all layers with maps by position.  Every turn runs all plans,
one after the other; the table has medians over the turns.  *Computed* and *packed* are
milliseconds of a sample, of the rank that computes most; *the rest* is what it waited and exchanged.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from rows import markdown

COMMAND = [sys.executable, "-m", "repurpose_hpc"]
NAMES = (
    "plan",
    "P",
    "bytes a sample",
    "rounds",
    "ms",
    "one process / this",
    "computed",
    "packed",
    "the rest",
)
ALL = ("--comm-budget", "1")


def main() -> None:
    """Make what is missing, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("input", type=Path)
    parser.add_argument("--workers", type=int, default=4, metavar="P")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N")
    parser.add_argument("--turns", type=int, default=3, metavar="N")
    parser.add_argument("--repeat", type=int, default=10, metavar="N", help="forwards of a turn")
    parser.add_argument("--plans", nargs="+", default=["channels", "positions"], help="beside one process")
    parser.add_argument("--verify", action="store_true", help="print how far outputs are from the reference")
    args = parser.parse_args()
    layers = _layers(args.model)
    all_plans = {
        "one process": (1, ALL),
        "channels": (args.workers, ALL),
        "positions": (args.workers, (*ALL, "--by-position", str(layers))),
    }
    plans = {name: plan for name, plan in all_plans.items() if name in ("one process", *args.plans)}
    shards = {name: _made(args, name, *plan) for name, plan in plans.items()}
    runs: dict[str, list[dict]] = {name: [] for name in plans}
    for _ in range(args.turns):
        for name, (ranks, _) in plans.items():
            runs[name].append(_measured(args, shards[name], ranks))
    alone = _median(runs["one process"], lambda run: run["latency_us"]["median"])
    print(markdown(NAMES, [_row(name, plans[name][0], runs[name], alone, args) for name in plans]))
    if args.verify:
        for name in plans:
            print(f"{name}: {max(run['max_abs_difference'] for run in runs[name]):.1e} from the reference")


def _layers(model: Path) -> int:
    """The layers that can be by position."""
    from repurpose_hpc.model.importers.load import load_model
    from repurpose_hpc.model.tiles import tileable

    return tileable(load_model(model, check=False))


def _made(args: argparse.Namespace, name: str, workers: int, options: tuple[str, ...]) -> Path:
    """The shards of a plan; made if they are not there."""
    kind = name.replace(", ", "_").replace(" ", "_")
    shards = args.out / f"{args.model.stem}_{workers}_{kind}"
    if not shards.exists():
        made = [*COMMAND, "restructure", str(args.model), "--workers", str(workers), "--no-check", "--quiet"]
        subprocess.run([*made, "--calibration", str(args.input), *options, "--out", str(shards)], check=True)
    return shards


def _measured(args: argparse.Namespace, shards: Path, ranks: int) -> dict:
    """The report of a run."""
    report = args.out / "run.json"
    run = ["mpirun", "-n", str(ranks), *COMMAND, "infer", "--shards", str(shards), "--quiet"]
    sizes = ["--batch-size", str(args.batch_size), "--repeat", str(args.repeat)]
    verify = ["--verify"] if args.verify else []
    files = ["--input", str(args.input), "--report", str(report)]
    subprocess.run([*run, *sizes, *verify, *files], check=True, stdout=sys.stderr)
    return json.loads(report.read_text())


def _row(name: str, ranks: int, runs: list[dict], alone: float, args: argparse.Namespace) -> tuple[str, ...]:
    """The columns of a plan; ``alone``: microseconds of one process for a batch."""
    time = _median(runs, lambda run: run["latency_us"]["median"])
    ms = time / 1000 / args.batch_size
    computed, packed = (
        _median(runs, lambda run, phase=phase: 1000 * run["seconds"][phase] / run["samples"])
        for phase in ("compute", "pack")
    )
    sent, rounds = runs[0]["bytes_sent"], runs[0]["rounds"]
    phases = computed, packed, max(0.0, ms - computed - packed)
    columns = (f"{ms:.1f}", f"{alone / time:.2f}", *(f"{value:.1f}" for value in phases))
    return name, str(ranks), f"{sent:,.0f}", str(rounds), *columns


def _median(runs: list[dict], value) -> float:
    return statistics.median(map(value, runs))


if __name__ == "__main__":
    main()
