"""Products with one block of weights, alone: one process, one thread, float32.

Ours ends with bias and ReLU, ONNX Runtime with the bias, all others compute the product alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
from scipy.sparse import csr_array

from repurpose_hpc.bench.candidate import Candidate, check
from repurpose_hpc.bench.peers import ONNXRUNTIME, TORCH, Peers
from repurpose_hpc.bench.table import BenchTable
from repurpose_hpc.bench.turns import alone, in_turns
from repurpose_hpc.kernels import aligned as allocate_aligned
from repurpose_hpc.kernels.sums import total
from repurpose_hpc.model.activations import RELU
from repurpose_hpc.model.comm_dtype import EXACT, WEIGHTS_DTYPES, received, scales_of
from repurpose_hpc.runtime.buffers import Scratch
from repurpose_hpc.runtime.lowering.blocks import CsrProduct, DenseProduct, Epilogue, epilogue_of

BATCHES = (2, 4, 8, 16, 32, 64, 128, 256)
DENSITIES = (0.01, 0.02, 0.05, 0.1)
CSR_COLUMNS = (1, 8, 20, 64)
FLOAT = np.dtype(np.float32)


def run(sizes: tuple[int, ...], repeats: int, peers: Peers) -> list[BenchTable]:
    """Measure, printing every row as it comes.

    Args:
        sizes: rows and columns of the weights.
        repeats: timed calls of each candidate; see ``turns.in_turns``.
        peers: that there are.
    """
    if TORCH in peers:
        from repurpose_hpc.bench.peers import torch_alone

        torch_alone.prepare()
    tables = [
        BenchTable("vector", "one vector, dense weights (n, n)", "ours"),
        BenchTable("batch", "a batch, dense weights (n, n)", "ours"),
        BenchTable("csr", "compressed sparse rows of (n, n), one vector and 64 columns", "ours"),
    ]
    for n in sizes:
        tables[0].add(_vector_row(n, peers, repeats))
    for n in sizes:
        for row in _batch_rows(n, peers, repeats):
            tables[1].add(row)
    for n in sizes:
        for row in _csr_rows(n, peers, repeats):
            tables[2].add(row)
    return tables


def product(
    block: DenseProduct | CsrProduct, X: np.ndarray, start: np.ndarray, out: np.ndarray, epilogue: Epilogue
) -> Candidate:
    """The project's own product, as a program does it; arguments as of ``DenseProduct.calls``."""
    scratch = Scratch(out.dtype, block.scratch(out.shape[1]))
    steps = [step[1:] for step in block.calls(X, start, out, scratch, epilogue)]

    def run_all() -> np.ndarray:
        for function, arguments in steps:
            function(*arguments)
        return out

    return Candidate(run_all)


class _Product:
    """Weights (n, n), a batch of inputs and a bias, with the results that are expected."""

    def __init__(self, W: np.ndarray, batch: int) -> None:
        self.W, self.X, self.bias = W, aligned(_normal(len(W), batch)), _normal(len(W), 1)
        self.out = aligned(np.zeros((len(W), batch), FLOAT))
        self.plain = W.astype(np.float64) @ self.X
        self.biased = self.plain + self.bias

        self.expected = {"ours": np.maximum(self.biased, 0), "onnxruntime": self.biased}

    def ours(self, block: DenseProduct | CsrProduct) -> Candidate:
        return product(block, self.X, self.bias, self.out, epilogue_of(RELU))

    def ours_stored(self, stored: str) -> dict[str, Candidate]:
        """Ours with weights in fewer bits, whose result is that of the weights that these stand for."""
        name, scales = f"ours_{stored}", scales_of(np.abs(self.W).max(axis=1))
        W = received(self.W, stored, scales).astype(np.float64)
        self.expected[name] = np.maximum(W @ self.X + self.bias, 0)
        return {name: self.ours(DenseProduct(self.W, stored))}

    def measure(self, candidates: dict[str, Candidate], repeats: int) -> dict:
        """The spread of each candidate, after a check of its result."""
        for name, candidate in candidates.items():
            if name != "sum":
                expected = self.expected.get(name, self.plain)
                check(name, candidate.output(candidate.call()), expected, FLOAT)
        return in_turns({name: alone(candidate.call) for name, candidate in candidates.items()}, repeats)


def _vector_row(n: int, peers: Peers, repeats: int) -> dict:
    problem = _Product(_normal(n, n), 1)
    flat = problem.W.reshape(-1)
    candidates = {"ours": problem.ours(DenseProduct(problem.W)), "sum": Candidate(lambda: total(flat))}
    for stored in (name for name in WEIGHTS_DTYPES if name != EXACT):
        candidates |= problem.ours_stored(stored)
    candidates |= _dense_peers(problem, peers, None)
    spreads = problem.measure(candidates, repeats)
    rate = problem.W.nbytes / spreads["ours"].median / 1e3
    return {"n": n, "spreads": spreads, "gb_per_s": round(rate, 1)}


def _batch_rows(n: int, peers: Peers, repeats: int) -> Iterator[dict]:
    W, session = _normal(n, n), None
    if ONNXRUNTIME in peers:
        from repurpose_hpc.bench.peers import onnx_alone

        session = onnx_alone.session([(W, _normal(n, 1).reshape(-1))], threads=1)
    for batch in BATCHES:
        problem = _Product(W, batch)
        candidates = {"ours": problem.ours(DenseProduct(problem.W)), **_dense_peers(problem, peers, session)}
        spreads = problem.measure(candidates, repeats)
        rate = 2 * W.size * batch / spreads["ours"].median / 1e3
        yield {"n": n, "batch": batch, "spreads": spreads, "gflops": round(rate, 1)}


def _dense_peers(problem: _Product, peers: Peers, session: object | None) -> dict[str, Candidate]:
    """Peers by name; ONNX Runtime if it has a ``session``."""
    W, X = problem.W, problem.X
    if X.shape[1] == 1:
        x, y = X[:, 0].copy(), np.empty(len(W), FLOAT)
        candidates = {"numpy": Candidate(lambda: np.dot(W, x, out=y), lambda y: y[:, None])}
    else:
        out = np.empty_like(problem.out)
        candidates = {"numpy": Candidate(lambda: np.matmul(W, X, out=out))}
    if TORCH in peers:
        from repurpose_hpc.bench.peers import torch_alone

        candidates["torch"] = torch_alone.dense(W, X)
    if session is not None:
        from repurpose_hpc.bench.peers import onnx_alone

        candidates["onnxruntime"] = onnx_alone.network(session, X, nullcontext)
    return candidates


def _csr_rows(n: int, peers: Peers, repeats: int) -> Iterator[dict]:
    for density in DENSITIES:
        mask = np.random.default_rng(1).random((n, n), FLOAT) < density
        W = np.where(mask, _normal(n, n), FLOAT.type(0))
        rows = csr_array(W)
        for columns in CSR_COLUMNS:
            problem = _Product(W, columns)
            spreads = problem.measure(_csr_candidates(problem, rows, peers), repeats)
            rate = 2 * rows.nnz * columns / spreads["ours"].median / 1e3
            yield {
                "n": n,
                "density": density,
                "columns": columns,
                "spreads": spreads,
                "gflops": round(rate, 1),
            }


def _csr_candidates(problem: _Product, rows: csr_array, peers: Peers) -> dict[str, Candidate]:
    X = problem.X
    x = X[:, 0].copy() if X.shape[1] == 1 else X
    candidates = {
        "ours": problem.ours(CsrProduct(problem.W)),
        "scipy": Candidate(lambda: rows @ x, lambda y: y.reshape(len(y), -1)),
    }
    if TORCH in peers:
        from repurpose_hpc.bench.peers import torch_alone

        candidates["torch"] = torch_alone.sparse(rows.data, rows.indices, rows.indptr, rows.shape, X)
    return candidates


def aligned(values: np.ndarray) -> np.ndarray:
    """The values (rows, batch) in memory as programs have it."""
    copy = allocate_aligned(values.shape, values.dtype)
    copy[:] = values
    return copy


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, FLOAT)
