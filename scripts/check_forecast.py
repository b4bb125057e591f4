"""Compare forecasts with measurements: run restructured networks, and forecast them from a machine file.

    python scripts/check_forecast.py --machine this --out check.csv --batches 1,16,256 DATA=SHARDS ...

DATA are the samples that the network in the directory SHARDS takes.  Each is run by as many ranks as it has
workers, with the launcher that belongs to the MPI here, also inside ``scripts/rehearse.sh``, several times.
A line of the table: what was run, the latencies of the ranks and of one process (least median and least
10th percentile), the forecasts, and their ratios to what was measured.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import environment

from repurpose_hpc import forecast_command


def measure(shards: Path, data: Path, ranks: int, batch: int, repeat: int) -> dict:
    """The report of ``infer``."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = environment.mpi_command(Path(sys.executable), ranks)
        command += ["-m", "repurpose_hpc.infer", "--shards", str(shards), "--input", str(data)]
        command += ["--batch-size", str(batch), "--repeat", str(repeat), "--report", str(report)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment.mpi_environment())
        return json.loads(report.read_text())


def predict(shards: Path, machine: str, ranks: int, batch: int) -> list[dict]:
    """The points of ``forecast`` for one process and for ``ranks``."""
    options = ["--machine", machine, "--ranks", f"1,{ranks}", "--batch-size", str(batch)]
    return forecast_command.run(forecast_command.parse([str(shards), *options]))["points"]


def least(reports: list[dict], key: str) -> dict[str, float]:
    """The least median and percentile of several runs: other work on the machine only ever adds."""
    return {name: min(report[key][name] for report in reports) for name in ("median", "p10")}


def compare(shards: Path, data: Path, args: argparse.Namespace, batch: int) -> dict:
    """One line of the table."""
    ranks = len(list(shards.glob("worker-*.h5")))
    measured = [measure(shards, data, ranks, batch, args.repeat) for _ in range(args.runs)]
    single, parallel = predict(shards, args.machine, ranks, batch)
    found, alone = (least(measured, key) for key in ("latency_us", "single_process_latency_us"))
    forecast, forecast_alone = parallel["restructured"], single["restructured"]["total_us"]
    row = {
        "machine": Path(args.machine).stem,
        "shards": shards.name,
        "ranks": ranks,
        "batch": batch,
        "measured_us": found["median"],
        "measured_p10_us": found["p10"],
        "forecast_us": forecast["total_us"],
        "ratio": forecast["total_us"] / found["median"],
        "ratio_p10": forecast["total_us"] / found["p10"],
        "wire_us": forecast["latency_us"] + forecast["bytes_us"],
        "single_us": alone["median"],
        "single_p10_us": alone["p10"],
        "single_forecast_us": forecast_alone,
        "single_ratio_p10": forecast_alone / alone["p10"],
    }
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}


def main() -> None:
    """Run everything on the command line and append to the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subjects", nargs="+", metavar="DATA=SHARDS")
    parser.add_argument("--machine", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batches", default="1,16,256")
    parser.add_argument("--repeat", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3, help="of which the fastest counts")
    args = parser.parse_args()
    for subject in args.subjects:
        data, shards = map(Path, subject.split("="))
        for batch in map(int, args.batches.split(",")):
            row = compare(shards, data, args, batch)
            print(row, flush=True)
            with open(args.out, "a", newline="") as file:
                table = csv.DictWriter(file, row)
                if not file.tell():
                    table.writeheader()
                table.writerow(row)


if __name__ == "__main__":
    main()
