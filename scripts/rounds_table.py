"""The table of docs/method.md on rounds: plans with and without a price of rounds, on rehearsed networks.

    python scripts/rounds_table.py --work DIR --out docs/results/rounds.csv

Needs root (see rehearse.sh).  The bundled network for eight workers, within the same tolerance of its outputs
on held-out samples: with rounds for nothing, and at the price that ``--round-cost auto`` takes from a
``probe`` of the rehearsal.  Then eight hosts run all plans of a rate in turns, one sample at a time, so that
whatever else the machine does meets them all.  Accuracy and error are those on the test data.  Machine files
and shards stay in DIR, and are not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from rows import write_csv

from repurpose_hpc import bundled
from repurpose_hpc.io.samples import open_samples
from repurpose_hpc.model.importers.load import load_model
from repurpose_hpc.plan.files.store import open_plan, read_network
from repurpose_hpc.restructure.calibration.evaluation import compare

REHEARSE = Path(__file__).with_name("rehearse.sh")
COMMAND = [sys.executable, "-m", "repurpose_hpc"]
MODEL, CALIBRATION, TEST = (
    Path(bundled.__file__).with_name(name) for name in ("model.npz", "calibration.npz", "test.npz")
)
RATES = ("100mbit", "1gbit")
TOLERANCES = {"replicated": (0.05, 0.1), "partitioned": (0.1,)}
WORKERS = 8
# Forwards of each plan in a turn, and turns.
FORWARDS, TURNS = 50, 40


def main() -> None:
    """Make what is missing, time it, print and write the table."""
    if sys.argv[1:2] == ["--run"]:
        return run([Path(word) for word in sys.argv[2:]])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for rate in RATES:
        described = [
            (placement, tolerance, price, plan_for(args.work, rate, placement, tolerance, price))
            for placement, tolerances in TOLERANCES.items()
            for tolerance in tolerances
            for price in ("0", "auto")
        ]
        latencies = time_all(rate, [shards for *_, shards in described])
        for (placement, tolerance, price, shards), microseconds in zip(described, latencies, strict=True):
            rows.append(
                {
                    "rate": rate,
                    "input_placement": placement,
                    "max_output_error": tolerance,
                    "price": price,
                    **findings(shards),
                    **microseconds,
                }
            )
    write_csv(args.out, rows)
    print("\n".join(table(rows)))


def plan_for(work: Path, rate: str, placement: str, tolerance: float, price: str) -> Path:
    """The shards of a plan, made if they are not there."""
    shards = work / f"{placement}-{tolerance}-{'free' if price == '0' else rate}"
    words = ["--workers", str(WORKERS), "--input-placement", placement, "--max-output-error", str(tolerance)]
    words += ["--round-cost", price]
    if price == "auto":
        words += ["--machine", str(machine_of(work, rate))]
    words += ["--calibration", str(CALIBRATION), "--out", str(shards), "--report", f"{shards}.json"]
    if not shards.exists():
        subprocess.run([*COMMAND, "restructure", str(MODEL), *words], check=True, stdout=sys.stderr)
    return shards


def machine_of(work: Path, rate: str) -> Path:
    """The machine file of a rehearsed network, made by two hosts if it is not there."""
    machine = work / f"{rate}.json"
    probe = ["mpirun", "-n", "2", *COMMAND, "probe", "--ranks-per-node", "1", "--out", str(machine)]
    if not machine.exists():
        subprocess.run([REHEARSE, "2", rate, *probe], check=True, stdout=sys.stderr)
    return machine


def findings(shards: Path) -> dict[str, float]:
    """What a plan sends, and its quality on the test data."""
    report = json.loads(Path(f"{shards}.json").read_text())
    cut = read_network(open_plan(shards))
    measured = compare(load_model(MODEL), cut, open_samples(TEST)).findings()
    return {
        **{name: report[name] for name in ("comm_budget", "rounds", "values_sent")},
        "round_cost": round(report["round_cost"]),
        "accuracy": round(measured["accuracy"], 4),
        "output_error": round(measured["output_error"], 4),
    }


def time_all(rate: str, plans: list[Path]) -> list[dict[str, float]]:
    """Latencies of the plans on a rehearsed network."""
    ranks = ["mpirun", "-n", str(WORKERS), sys.executable, __file__, "--run", *map(str, plans)]
    done = subprocess.run([REHEARSE, str(WORKERS), rate, *ranks], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def run(plans: list[Path]) -> None:
    """A rank of ``time_all``."""
    from mpi4py import MPI

    from repurpose_hpc.runtime.loading import load_shards
    from repurpose_hpc.runtime.program import Program
    from repurpose_hpc.runtime.timing import measure

    comm, draw = MPI.COMM_WORLD, np.random.default_rng(0)
    programs = [Program(load_shards(shards, np.dtype(np.float32), comm)[1], comm) for shards in plans]
    inputs = [draw.standard_normal((program.input_columns.size, 1), np.float32) for program in programs]
    latencies: list[list[np.ndarray]] = [[] for _ in programs]
    for _ in range(TURNS):
        for program, x, collected in zip(programs, inputs, latencies, strict=True):
            timing = measure(program, x, FORWARDS, comm)
            if timing is not None:
                collected.append(timing.latency)
    if comm.rank == 0:
        print(json.dumps([_microseconds(np.concatenate(collected)) for collected in latencies]))


def _microseconds(seconds: np.ndarray) -> dict[str, float]:
    names = {"p10_us": 10, "median_us": 50, "p90_us": 90}
    return {name: round(1e6 * float(np.percentile(seconds, share))) for name, share in names.items()}


def table(rows: list[dict]) -> list[str]:
    """Lines of Markdown, one for each plan."""
    lines = [
        "| rate | input | tolerance | V | rounds | values | accuracy | output error | median, µs | ratio |",
        "|---" * 10 + "|",
    ]
    for row in rows:
        if row["price"] == "0":
            free = row["median_us"]
        cells = (
            *(row[name] for name in ("rate", "input_placement", "max_output_error")),
            *(f"{row[name]:,}" for name in ("round_cost", "rounds", "values_sent")),
            *(f"{row[name]:.4f}" for name in ("accuracy", "output_error")),
            f"{row['median_us']:,}",
            f"{free / row['median_us']:.2f}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


if __name__ == "__main__":
    main()
