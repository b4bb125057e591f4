"""Start of two checkouts in turns: whole commands, from empty caches on, then with full ones.

``python scripts/bench_start.py OTHER``, with another checkout, prints a table: medians of this one in
seconds, and in brackets their ratios to those of the other.  Both run with this Python.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import environment

PYTHON = Path(sys.executable)
TIMEOUT_SECONDS = 600.0
# What Python says of a module: microseconds without those that it imports, and its name.
IMPORT = re.compile(r"^import time:\s+(\d+) \|[^|]*\|\s+(\S+)$", re.M)
PACKAGES = ("repurpose_hpc", "numba", "llvmlite", "numpy", "h5py", "mpi4py")


class Start(NamedTuple):
    """Seconds of a command: to its end, to its first result, and of imports and of compiling or loading."""

    command: float
    first_result: float
    imports: float
    jit: float


def run(tree: Path, caches: Path, ranks: int, arguments: list[str]) -> Start:
    """Run ``infer`` of a checkout with its caches in a folder; RuntimeError: it failed."""
    report = caches / "report.json"
    env = environment.mpi_environment() | {
        "PYTHONPATH": str(tree),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "",
        "NUMBA_CACHE_DIR": str(caches / "kernels"),
        "REPURPOSE_HPC_CACHE": str(caches / "shards"),
    }
    launcher = environment.mpi_command(PYTHON, ranks)
    command = [*launcher, "-m", "repurpose_hpc.infer", *arguments, "--report", str(report)]
    began = perf_counter()
    done = environment.run(command, env, TIMEOUT_SECONDS, cwd=tree)
    seconds = perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: status {done.returncode}\n{done.stderr}")
    found = json.loads(report.read_text())
    parts = found["seconds"]
    return Start(seconds, found["first_result_seconds"], parts["import"], parts["jit"])


def turn(tree: Path, ranks: int, shards: list[str]) -> Iterator[tuple[str, Start]]:
    """Names and seconds of the starts of a checkout, one after the other, from empty caches on."""
    with tempfile.TemporaryDirectory() as folder:
        (caches := Path(folder, "infer")).mkdir()
        yield "infer --shards, nothing compiled", run(tree, caches, ranks, shards)
        yield "infer --shards, all in the cache", run(tree, caches, ranks, shards)
        (caches := Path(folder, "demo")).mkdir()
        yield "the demo, nothing compiled", run(tree, caches, ranks, [])


def imports(shards: list[str], runs: int) -> Iterator[str]:
    """Lines of a table: modules that one rank of this checkout imports, and the time that they take."""
    words = [str(PYTHON), "-X", "importtime", "-m", "repurpose_hpc.infer", *shards, "--repeat", "0"]
    env = {
        **environment.mpi_environment(),
        "PYTHONPATH": str(environment.ROOT),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    best: dict[str, int] = {}
    for _ in range(runs):
        done = environment.run(words, env, TIMEOUT_SECONDS, cwd=environment.ROOT)
        for microseconds, module in IMPORT.findall(done.stderr):
            best[module] = min(int(microseconds), best.get(module, int(microseconds)))
    packages: dict[str, list[int]] = {}
    for module, microseconds in best.items():
        package = module.partition(".")[0]
        packages.setdefault(package if package in PACKAGES else "others", []).append(microseconds)
    total = sum(best.values())
    yield "| package | modules | share of the time |"
    yield "|---|---|---|"
    for package in sorted(packages, key=lambda name: -sum(packages[name])):
        yield f"| {package} | {len(packages[package])} | {sum(packages[package]) / total:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, help="checkout to compare with")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    trees = {"this": environment.ROOT, "other": options.other.resolve()}
    starts: dict[tuple[str, str], list[Start]] = {}
    with tempfile.TemporaryDirectory() as folder:
        bundled, caches = environment.ROOT / "repurpose_hpc/bundled", Path(folder, "caches")
        caches.mkdir()
        run(environment.ROOT, caches, options.ranks, ["--repeat", "0"])  # restructures
        (made,) = (path.parent for path in (caches / "shards").glob("*/plan.h5"))
        shards = ["--shards", str(made), "--input", str(bundled / "test.npz")]
        for number in range(options.turns):
            for name, tree in trees.items():
                for row, start in turn(tree, options.ranks, shards):
                    starts.setdefault((row, name), []).append(start)
                    print(f"turn {number + 1}, {name}: {row}: {start}", file=sys.stderr, flush=True)
        print(*table(starts), "", *imports(shards, options.turns), sep="\n")


def table(starts: dict[tuple[str, str], list[Start]]) -> Iterator[str]:
    """Lines of the table: medians of this checkout, and in brackets their ratios to those of the other."""
    yield "| | command, s | first result, s | imports, s | compiling or loading, s |"
    yield "|---|---|---|---|---|"
    for row in dict.fromkeys(row for row, _ in starts):
        this, other = (_medians(starts[row, name]) for name in ("this", "other"))
        cells = [f"{a:.1f} ({a / b:.2f})" for a, b in zip(this, other, strict=True)]
        yield f"| {row} | {' | '.join(cells)} |"


def _medians(starts: list[Start]) -> list[float]:
    return [statistics.median(seconds) for seconds in zip(*starts, strict=True)]


if __name__ == "__main__":
    main()
