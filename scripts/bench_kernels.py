"""Locate the crossovers of ``kernels/products/crossover.py``: CSR against dense products.

    OMP_NUM_THREADS=1 python scripts/bench_kernels.py --out kernels.json

float32, one thread, medians.  The candidates of a comparison take turns, so that other work on
the machine slows all of them alike; trust the ratios more than the times.  Kernels beside their peers are
measured by ``python -m repurpose_hpc bench kernels``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from repurpose_hpc.bench.kernels import product
from repurpose_hpc.kernels import ACTIVATION_CODES, Epilogue, warm_up
from repurpose_hpc.runtime.lowering.blocks import CsrProduct, DenseProduct

RELU = Epilogue(ACTIVATION_CODES["relu"], 0.0, 0.0)
SIZES = (256, 1024, 4096)
BATCHES = (1, 2, 4, 8, 16, 64, 256)
DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)

# A comparison takes about this long, within 10 to 100 repeats.
SECONDS, FEWEST, MOST = 0.3, 10, 100

Name = TypeVar("Name", bound=Hashable)


def times_us(candidates: Mapping[Name, Callable[[], object]], percentile: float = 50) -> dict[Name, float]:
    """Median time, or another percentile, of each candidate in microseconds, in turns after a warm-up."""
    round_seconds = sum(_seconds(call) for call in candidates.values())
    round_seconds = min(round_seconds, sum(_seconds(call) for call in candidates.values()))
    repeats = int(np.clip(SECONDS / round_seconds, FEWEST, MOST))
    times = [[_seconds(call) for call in candidates.values()] for _ in range(repeats)]
    return dict(
        zip(candidates, (1e6 * np.percentile(times, percentile, axis=0)).round(2).tolist(), strict=True)
    )


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def csr_row(n: int, batch: int, density: float) -> dict:
    """CSR against dense, both as a program computes them."""
    W = np.where(np.random.default_rng(1).random((n, n), dtype=np.float32) < density, normal(n, n), 0)
    X, bias, out = normal(n, batch), normal(n, 1), normal(n, batch)
    times = times_us(
        {block.format: product(block, X, bias, out, RELU).call for block in (CsrProduct(W), DenseProduct(W))}
    )
    ratio = round(times["csr"] / times["dense"], 2)
    return {"n": n, "batch": batch, "density": density, **times, "ratio": ratio}


def crossovers(rows: list[dict]) -> list[dict]:
    """The density at which CSR and dense take the same time, for each size and batch."""
    densities_of_sizes = []
    for n, batch in dict.fromkeys((row["n"], row["batch"]) for row in rows):
        curve = [(r["ratio"], r["density"]) for r in rows if (r["n"], r["batch"]) == (n, batch)]
        ratios, densities = zip(*curve, strict=True)
        # Noise may bend the curve; interpolation wants a rising one.
        density = float(np.interp(1.0, np.maximum.accumulate(ratios), densities))
        densities_of_sizes.append({"n": n, "batch": batch, "density": round(density, 3)})
    return densities_of_sizes


def print_table(title: str, rows: list[dict]) -> None:
    print(f"\n{title}")
    print("".join(f"{name:>21}" for name in rows[0]))
    for row in rows:
        print("".join(f"{value:>21}" for value in row.values()), flush=True)


def parse(description: str, *flags: str) -> argparse.Namespace:
    """The command line of a benchmark with one thread; ``description`` says what its ``flags`` do."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the results to this JSON file as well")
    for flag in flags:
        parser.add_argument(flag, action="store_true", help="see the beginning of this file")
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("set OMP_NUM_THREADS=1: a rank computes with one thread, and so must BLAS here")
    return arguments


def main() -> None:
    arguments = parse(__doc__)
    print(f"warm-up (JIT or cache): {warm_up(np.float32):.2f} s; times in microseconds")
    results = {"csr": [csr_row(n, b, d) for n in SIZES for b in BATCHES for d in DENSITIES]}
    print_table("CSR against dense", results["csr"])
    results["crossovers"] = crossovers(results["csr"])
    print_table("Density below which CSR is faster", results["crossovers"])
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
