"""Time and peak memory of exact assignments under capacities: ours and what it was compared with.

    OMP_NUM_THREADS=1 PYTHONPATH=. python scripts/bench_assignment.py > table.md

Every measurement is a process of its own, ended after ``--seconds`` or at ``--gigabytes``; what fails
at some m is not tried at a larger one.  A cell is CPU seconds (compilation and imports excluded) / MB at the
peak of the whole process (costs, interpreter and imports included).  Candidates that are
not installed (``pip install pot ortools``) are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import time

import numpy as np


def ours(costs: np.ndarray, capacities: np.ndarray) -> np.ndarray:
    from repurpose_hpc.restructure.owners.assignment import assign

    return assign(costs, capacities)


def linear_sum_assignment(costs: np.ndarray, capacities: np.ndarray) -> np.ndarray:
    """The square problem: each worker repeated as often as its capacity."""
    from scipy.optimize import linear_sum_assignment

    seats = np.repeat(np.arange(len(capacities)), capacities)
    return seats[linear_sum_assignment(costs[:, seats])[1]]


def sparse_matching(costs: np.ndarray, capacities: np.ndarray) -> np.ndarray:
    """scipy's sparse matching, on the same square problem."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    seats = np.repeat(np.arange(len(capacities)), capacities)
    positive = costs - costs.min() + 1.0  # a zero would be no edge
    return seats[min_weight_full_bipartite_matching(csr_array(positive[:, seats]))[1]]


def linprog(costs: np.ndarray, capacities: np.ndarray) -> np.ndarray:
    """scipy's linear programming (HiGHS); its vertices are integral."""
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, kron

    m, P = costs.shape
    every_row = kron(eye_array(m), np.ones((1, P)), format="csr")
    every_worker = kron(np.ones((1, m)), eye_array(P), format="csr")
    done = linprog(costs.ravel(), every_worker, capacities, every_row, np.ones(m), method="highs-ds")
    return done.x.reshape(m, P).argmax(1)


def pot(costs: np.ndarray, capacities: np.ndarray) -> np.ndarray:
    """POT's network simplex, one row more for the seats left over."""
    import ot

    m = len(costs)
    rows = np.append(np.ones(m), capacities.sum() - m)
    costs = np.vstack([costs, np.zeros(len(capacities))])
    return ot.emd(rows, capacities.astype(float), costs, numItermax=10**9)[:m].argmax(1)


def ortools(costs: np.ndarray, capacities: np.ndarray) -> np.ndarray:
    """OR-tools' min cost flow on integers: costs rounded to 2**-32 of their range."""
    from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

    m, P = costs.shape
    scaled = np.rint((costs - costs.min()) * (2.0**32 / max(np.ptp(costs), 1e-300))).astype(np.int64)
    rows, workers, sink = np.arange(m), m + np.arange(P), m + P
    flow = SimpleMinCostFlow()
    arcs = flow.add_arcs_with_capacity_and_unit_cost(
        np.repeat(rows, P), np.tile(workers, m), np.ones(m * P, np.int64), scaled.ravel()
    )
    flow.add_arcs_with_capacity_and_unit_cost(workers, np.full(P, sink), capacities, np.zeros(P, np.int64))
    flow.set_nodes_supplies(np.append(rows, sink), np.append(np.ones(m, np.int64), -m))
    assert flow.solve() == flow.OPTIMAL
    return flow.flows(arcs).reshape(m, P).argmax(1)


# Each with the package that it needs.
CANDIDATES = {
    ours: "numba",
    linear_sum_assignment: "scipy",
    sparse_matching: "scipy",
    linprog: "scipy",
    pot: "ot",
    ortools: "ortools",
}
BY_NAME = {candidate.__name__: candidate for candidate in CANDIDATES}
STRUCTURES = {
    "uniform": "independent, uniform",
    "bias": "uniform plus a column bias of up to 3: everybody wants the same workers",
    "points": "squared distances between points in three dimensions, plus noise",
    "product": "importance of the row times price of the worker",
    "integers": "0 to 3",
    "equal": "all the same",
    "repeated": "uniform, each row 16 times",
    "scales": "uniform, rows scaled by 1e-8 to 1e8",
    "negative": "uniform, -1 to 0, with the bias",
    "slack": "as bias, with a quarter of the seats to spare",
    "uneven": "as bias, capacities from a few to a few thousand",
}


def problem(structure: str, m: int, P: int) -> tuple[np.ndarray, np.ndarray]:
    """(costs, capacities) of one of ``STRUCTURES``."""
    rng = np.random.default_rng(0)
    costs, bias, capacities = rng.random((m, P)), 3 * np.arange(P) / P, np.full(P, -(-m // P))
    if structure in ("bias", "slack", "uneven"):
        costs += bias
    if structure == "points":
        costs *= 0.01
        for _ in range(3):
            costs += (rng.standard_normal((m, 1)) - rng.standard_normal(P)) ** 2
    elif structure == "product":
        costs = rng.random((m, 1)) * np.sort(rng.random(P))
    elif structure == "integers":
        costs = np.floor(4 * costs)
    elif structure == "equal":
        costs[:] = 1.0
    elif structure == "repeated":
        costs = costs[rng.permutation(m) // 16]
    elif structure == "scales":
        costs *= 10.0 ** rng.uniform(-8, 8, (m, 1))
    elif structure == "negative":
        costs += bias - 1 - bias.max()
    elif structure == "slack":
        capacities += capacities // 4
    elif structure == "uneven":
        capacities = rng.multinomial(m, rng.dirichlet(np.ones(P)))
    return costs, capacities


def measure(name: str, structure: str, m: int, P: int, gigabytes: float) -> dict:
    """CPU seconds, peak memory and total cost of one candidate in this process."""
    resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 2**30),) * 2)
    candidate = BY_NAME[name]
    candidate(np.eye(2), np.array([1, 1]))
    costs, capacities = problem(structure, m, P)
    began = time.process_time()
    owner = candidate(costs, capacities)
    seconds = time.process_time() - began
    assert (np.bincount(owner, minlength=P) <= capacities).all()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "mb": peak, "total": costs[np.arange(m), owner].sum()}


def measure_apart(name: str, structure: str, m: int, args: argparse.Namespace) -> dict:
    """``measure`` in a process of its own; {"failed": why} where it needs too much."""
    options = ["--workers", str(args.workers), "--gigabytes", str(args.gigabytes)]
    command = [sys.executable, __file__, *options, "--one", name, structure, str(m)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=args.seconds)
    except subprocess.TimeoutExpired:
        return {"failed": f"> {args.seconds:g} s"}
    if done.returncode:
        out_of_memory = any(word in done.stderr for word in ("MemoryError", "bad_alloc", "llocat"))
        last_line = done.stderr.strip().splitlines()[-1]
        return {"failed": f"> {args.gigabytes:g} GB" if out_of_memory else last_line}
    return json.loads(done.stdout.splitlines()[-1])


def cell(result: dict, best: float) -> str:
    if "failed" in result:
        return result["failed"]
    worse = (result["total"] - best) / max(abs(best), 1e-300)
    return f"{result['seconds']:.3g} / {result['mb']:.0f}" + (f" (+{worse:.0e})" if worse > 1e-12 else "")


def table(args: argparse.Namespace) -> None:
    """Print one row for each structure and m, one column for each candidate."""
    installed = [c.__name__ for c, package in CANDIDATES.items() if importlib.util.find_spec(package)]
    names = [name for name in args.candidates or installed if name in installed]
    print("| costs | m |", " | ".join(names), "|")
    print("|---|---|" + "---|" * len(names))
    for structure in args.structures:
        failed: dict[str, dict] = {}
        for m in args.sizes:
            results = {n: failed.get(n) or measure_apart(n, structure, m, args) for n in names}
            failed = {name: {"failed": "–"} for name, result in results.items() if "failed" in result}
            best = min((r["total"] for r in results.values() if "total" in r), default=0.0)
            cells = " | ".join(cell(result, best) for result in results.values())
            print(f"| {structure} | {m:,} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096, 16384, 65536], metavar="M")
    parser.add_argument("--structures", nargs="+", default=list(STRUCTURES), choices=STRUCTURES)
    parser.add_argument("--candidates", nargs="+", choices=BY_NAME, help="default: installed")
    parser.add_argument("--seconds", type=float, default=120.0, help="at most, by the clock")
    parser.add_argument("--gigabytes", type=float, default=8.0, help="of address space at most")
    parser.add_argument("--one", nargs=3, metavar=("CANDIDATE", "COSTS", "M"), help="measure here")
    args = parser.parse_args()
    if args.one:
        name, structure, m = args.one
        print(json.dumps(measure(name, structure, int(m), args.workers, args.gigabytes)))
    else:
        table(args)


if __name__ == "__main__":
    main()
