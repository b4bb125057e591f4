"""Measure the kernels and locate the crossovers of ``repurpose_hpc/kernels/crossover.py``.

    OMP_NUM_THREADS=1 python scripts/bench_kernels.py --out kernels.json

float32, one thread, medians.  The candidates of a comparison take turns, so that other work on
the machine slows all of them alike; trust the ratios more than the times.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from repurpose_hpc.kernels import (
    ACTIVATION_CODES,
    INDEX_DTYPE,
    csr_batch,
    csr_vector,
    warm_up,
)
from repurpose_hpc.kernels.jit import jit
from repurpose_hpc.runtime.blocks import DenseProduct
from repurpose_hpc.runtime.buffers import Scratch

RELU = ACTIVATION_CODES["relu"], 0.0, 0.0
VECTOR_SIZES = (1024, 2048, 4096)
BATCH_SIZES = (128, 512, 1024, 2048)
BATCHES = (2, 4, 6, 8, 12, 16, 32, 64, 128, 256)
CSR_SIZES = (1024, 4096)
CSR_BATCHES = (1, 2, 4, 8, 16, 64)
DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)

# A comparison takes about this long, within 10 to 100 repeats.
SECONDS, FEWEST, MOST = 1.0, 10, 100


@jit
def _sum(values: np.ndarray) -> float:
    """Reading every number once and doing as good as nothing else: the memory bandwidth."""
    total = values.dtype.type(0)
    for i in range(values.size):
        total += values[i]
    return total


def medians_us(candidates: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median time in microseconds of each candidate, called in turns after a warm-up."""
    once = sum(_seconds(call) for call in candidates.values())
    once = min(once, sum(_seconds(call) for call in candidates.values()))
    repeats = int(np.clip(SECONDS / once, FEWEST, MOST))
    times = [[_seconds(call) for call in candidates.values()] for _ in range(repeats)]
    return dict(zip(candidates, (1e6 * np.median(times, axis=0)).round(2).tolist(), strict=True))


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def dense_call(W: np.ndarray, X: np.ndarray) -> Callable[[], object]:
    """act(bias + W X) as a program computes it."""
    product, scratch = DenseProduct(W), Scratch(W.dtype)
    scratch.reserve(product.scratch(X.shape[1]))
    bias, out = normal(len(W), 1), normal(len(W), X.shape[1])
    ((_, function, arguments),) = product.calls(X, bias, out, scratch, RELU)
    return lambda: function(*arguments)


def vector_row(n: int) -> dict:
    W, x, out = normal(n, n), normal(n, 1), normal(n, 1)
    flat = W.reshape(-1)
    times = medians_us(
        {
            "dense": dense_call(W, x),
            "np_dot": lambda: np.dot(W, x, out=out),
            "sum": lambda: _sum(flat),
        }
    )
    return {
        "n": n,
        **times,
        "gb_per_s": round(W.nbytes / times["dense"] / 1e3, 1),
        "of_bandwidth": round(times["sum"] / times["dense"], 2),
        "np_dot_of_bandwidth": round(times["sum"] / times["np_dot"], 2),
    }


def batch_row(n: int, batch: int) -> dict:
    W, X, out = normal(n, n), normal(n, batch), normal(n, batch)
    times = medians_us({"dense": dense_call(W, X), "np_matmul": lambda: np.matmul(W, X, out=out)})
    return {"n": n, "batch": batch, **times, "ratio": round(times["dense"] / times["np_matmul"], 2)}


def sparse_arrays(W: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(data, indices, indptr) of the non-zeros of W."""
    rows, columns = np.nonzero(W)
    indptr = np.searchsorted(rows, np.arange(len(W) + 1))
    return W[rows, columns], columns.astype(INDEX_DTYPE), indptr.astype(INDEX_DTYPE)


def csr_row(n: int, batch: int, density: float) -> dict:
    """CSR against dense."""
    dense = normal(n, n)
    W = np.where(np.random.default_rng(1).random((n, n), dtype=np.float32) < density, dense, 0)
    sparse, X = sparse_arrays(W), normal(n, batch)
    bias, out = normal(n, 1), normal(n, batch)
    if batch == 1:
        x, start, column = X[:, 0].copy(), bias[:, 0].copy(), out[:, 0].copy()
        candidates = {
            "csr": lambda: csr_vector(*sparse, x, start, column, *RELU),
            "dense": dense_call(W, X),
        }
    else:
        candidates = {
            "csr": lambda: csr_batch(*sparse, X, bias, out, *RELU),
            "dense": dense_call(W, X),
        }
    times = medians_us(candidates)
    csr = times.pop("csr")
    best = min(times.values())
    return {
        "n": n,
        "batch": batch,
        "density": density,
        "csr": csr,
        "dense": best,
        "ratio": round(csr / best, 2),
    }


def crossovers(rows: list[dict]) -> list[dict]:
    """For each size and batch, the density at which CSR and dense take the same time."""
    found = []
    for n, batch in dict.fromkeys((row["n"], row["batch"]) for row in rows):
        curve = [(r["ratio"], r["density"]) for r in rows if (r["n"], r["batch"]) == (n, batch)]
        ratios, densities = zip(*curve, strict=True)
        # Noise may bend the curve; interpolation wants a rising one.
        density = float(np.interp(1.0, np.maximum.accumulate(ratios), densities))
        found.append({"n": n, "batch": batch, "density": round(density, 3)})
    return found


def print_table(title: str, rows: list[dict]) -> None:
    print(f"\n{title}")
    print("".join(f"{name:>21}" for name in rows[0]))
    for row in rows:
        print("".join(f"{value:>21}" for value in row.values()), flush=True)


def parse(description: str) -> argparse.Namespace:
    """The command line of a benchmark with one thread."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the results to this JSON file as well")
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("set OMP_NUM_THREADS=1: a rank computes with one thread, and so must BLAS here")
    return arguments


def main() -> None:
    arguments = parse(__doc__)
    print(f"warm-up (JIT or cache): {warm_up(np.float32):.2f} s; times in microseconds")
    results = {"vector": [vector_row(n) for n in VECTOR_SIZES]}
    print_table("One vector: dense against np.dot and a sum over W", results["vector"])
    results["batch"] = [batch_row(n, batch) for n in BATCH_SIZES for batch in BATCHES]
    print_table("A batch: dense with bias and activation against np.matmul alone", results["batch"])
    results["csr"] = [csr_row(n, b, d) for n in CSR_SIZES for b in CSR_BATCHES for d in DENSITIES]
    print_table("CSR against dense", results["csr"])
    results["crossovers"] = crossovers(results["csr"])
    print_table("Density below which CSR is faster", results["crossovers"])
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
