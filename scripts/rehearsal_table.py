"""The table of docs/results/rehearsal.md: dense against restructured on rehearsed networks.

    python scripts/rehearsal_table.py MODEL CALIBRATION --out DIR

Needs root (see rehearse.sh).  MODEL and a synthetic network of 4 layers 4096 x 4096, on cables of 1 Gbit/s
and 100 Mbit/s.  Prints the table in Markdown and writes every point to DIR/rehearsal.csv.  Started again it
measures what is missing.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

REHEARSE = Path(__file__).with_name("rehearse.sh")
RATES = {"1gbit": 1e9, "100mbit": 1e8}
RANKS = (2, 4, 8)
HEAD = (
    *("network", "rate", "ranks", "batch", "one process, ms", "dense, ms", "restructured, ms", "ratio"),
    *("least on the cables, dense, ms", "restructured, ms"),
    *("bytes, dense: claimed", "on the interfaces", "bytes, restructured: claimed", "on the interfaces"),
)


def main() -> None:
    """Measure what is missing, then print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    networks = {
        args.model.stem: [str(args.model), "--calibration", str(args.calibration)],
        "4 x 4096 x 4096": ["--width", "4096", "--layers", "4"],
    }
    points = [
        {"network": network, "rate": rate, **point}
        for network, options in networks.items()
        for rate in RATES
        for point in rehearse(options, rate, args.out / f"{network.replace(' ', '')}-{rate}")
    ]
    write(args.out / "rehearsal.csv", points)
    print("\n".join(table(points)))


def rehearse(options: list[str], rate: str, out: Path) -> list[dict]:
    """The points of a network on cables of one rate."""
    scaling = [sys.executable, "-m", "repurpose_hpc", "scaling", "strong", *options, "--out", str(out)]
    ranks = ",".join(map(str, RANKS))
    subprocess.run(
        [REHEARSE, str(max(RANKS)), rate, *scaling, "--ranks", ranks], check=True, stdout=sys.stderr
    )
    return json.loads((out / "scaling.json").read_text())["points"]


def write(path: Path, points: list[dict]) -> None:
    """All points as CSV."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, points[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(points)


def table(points: list[dict]) -> list[str]:
    """Lines of Markdown, one for each pair of dense and restructured."""
    pairs: dict[tuple, dict[str, dict]] = {}
    for point in points:
        key = tuple(point[name] for name in ("network", "rate", "ranks", "batch"))
        pairs.setdefault(key, {})[point["form"]] = point
    lines = [HEAD, ("---",) * len(HEAD)]
    for key, pair in pairs.items():
        dense, restructured = pair["dense"], pair["restructured"]
        times = [point["seconds_median"] for point in (dense, restructured)]
        ratio = f"{times[0] / times[1]:.2f}"
        single = dense["best_single_seconds"]
        cables = [least_seconds(point) for point in (dense, restructured)]
        bytes_ = [
            f"{point[name]:,.0f}" for point in (dense, restructured) for name in ("bytes", "wire_bytes")
        ]
        lines.append(
            (*map(str, key), *map(milliseconds, (single, *times)), ratio, *map(milliseconds, cables), *bytes_)
        )
    return ["| " + " | ".join(line) + " |" for line in lines]


def least_seconds(point: dict) -> float:
    """Seconds of an even share of the bytes on a host's cable."""
    return point["bytes"] / point["ranks"] * 8 / RATES[point["rate"]]


def milliseconds(seconds: float) -> str:
    """Milliseconds with three digits or, from 100 on, none behind the point."""
    return f"{1e3 * seconds:.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


if __name__ == "__main__":
    main()
