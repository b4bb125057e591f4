"""Time and memory of restructuring on several ranks, and whether they all write the same shards.

    python scripts/bench_restructure.py MODEL --calibration DATA --workers 8 --ranks 1,2 [--repeat 3]
    python scripts/bench_restructure.py --width 4096 --layers 4 --workers 16 --ranks 2

Without MODEL: a random network of ``--layers`` mixings of ``--width`` neurons with ReLU, and 8,000 samples of
correlated inputs.  One BLAS thread per rank; the numbers of ranks take turns, so that what else the machine
does disturbs all alike.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

import environment
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SAMPLES, FACTORS = 8000, 256
TIMEOUT = 3600.0

# What every rank runs; the largest of them says how much memory it needed.
RUN = """
import resource, runpy, sys
runpy.run_module("repurpose_hpc.restructure", run_name="__main__", alter_sys=True)
from mpi4py import MPI
peak = MPI.COMM_WORLD.reduce(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, MPI.MAX)
if peak is not None:
    print(f"peak {peak}")
"""


def main() -> None:
    """Measure, and print a table."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if args.model is None:
            args.model, args.calibration = make_problem(folder, args.width, args.layers)
        runs = {ranks: [] for ranks in args.ranks}
        for _ in range(args.repeat):
            for ranks in args.ranks:
                runs[ranks].append(run(args, ranks, folder))
                print(f"{ranks} ranks: {runs[ranks][-1]}", flush=True)
    digests = {result["digest"] for results in runs.values() for result in results}
    print("same shards, bit for bit" if len(digests) == 1 else "THE SHARDS DIFFER")
    print("| ranks | seconds (median) | times faster | peak memory of a rank |\n|---|---|---|---|")
    seconds = {ranks: median(result["seconds"] for result in results) for ranks, results in runs.items()}
    first = seconds[args.ranks[0]]
    for ranks, results in runs.items():
        peak = max(result["peak_mib"] for result in results)
        print(f"| {ranks} | {seconds[ranks]:.1f} | {first / seconds[ranks]:.2f} | {peak:,.0f} MiB |")
    sys.exit(len(digests) != 1)


def run(args: argparse.Namespace, ranks: int, folder: Path) -> dict:
    """One restructuring: seconds by its own report, peak memory of a rank, and a digest of the shards."""
    out, report = folder / "out", folder / "report.json"
    shutil.rmtree(out, ignore_errors=True)
    command = [*environment.mpi_command(Path(sys.executable), ranks), "-c", RUN, args.model]
    command += ["--calibration", args.calibration, "--workers", args.workers, "--comm-budget", args.budget]
    command += ["--input-placement", args.input_placement, "--forms", args.forms]
    command += ["--out", out, "--report", report]
    env = {**environment.mpi_environment(), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = environment.run(list(map(str, command)), env, TIMEOUT)
    if process.returncode:
        sys.exit(f"{ranks} ranks failed with status {process.returncode}:\n{process.stderr}")
    digest = hashlib.sha256()
    for path in sorted(out.iterdir()):
        digest.update(path.read_bytes())
    peak = int(process.stdout.rsplit("peak ", 1)[1])
    seconds = json.loads(report.read_text())["seconds"]
    return {"seconds": round(seconds, 1), "peak_mib": peak / 1024, "digest": digest.hexdigest()[:12]}


def make_problem(folder: Path, width: int, layers: int) -> tuple[Path, Path]:
    """A random network with ReLU between its layers, and samples of which FACTORS directions carry most."""
    rng = np.random.default_rng(0)
    arrays = {}
    for layer in range(layers):
        arrays[f"W{layer}"] = rng.standard_normal((width, width), np.float32) * np.float32(np.sqrt(2 / width))
        arrays[f"b{layer}"] = np.zeros(width, np.float32)
    np.savez(folder / "model.npz", **arrays)
    factors = rng.standard_normal((FACTORS, width), np.float32) / np.float32(np.sqrt(FACTORS))
    x = rng.standard_normal((SAMPLES, FACTORS), np.float32) @ factors
    np.save(folder / "x.npy", x + np.float32(0.1) * rng.standard_normal(x.shape, np.float32))
    return folder / "model.npz", folder / "x.npy"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--budget", type=float, default=0.05)
    parser.add_argument("--input-placement", default="partitioned")
    parser.add_argument("--forms", default="ghosts,sums")
    parser.add_argument("--ranks", type=lambda text: [int(part) for part in text.split(",")], default=[1, 2])
    parser.add_argument("--repeat", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
