r"""Time PETSc on the layers of ``repurpose_hpc bench inference``: MatMult, bias, ReLU, in float64.

    apt install python3-petsc4py-real python3-mpi4py openmpi-bin libopenblas0-pthread
    DEBIAN=$(dirname $(ls -d /usr/lib/petscdir/*/*-real/lib/python3/dist-packages/petsc4py))
    PYTHONPATH=.:$DEBIAN OMP_NUM_THREADS=1 mpirun.openmpi -n 2 --bind-to core /usr/bin/python3 \
        scripts/bench_petsc.py

Debian's petsc4py needs Debian's Python and Open MPI, so this is a run of its own, with its own weights of the
same sizes: compare with ``python -m repurpose_hpc bench inference --dtype float64 --batches 1`` of the same
minute.  PETSc uses the BLAS that Debian's alternatives name; the reference BLAS (libblas3 alone) takes it
twice as long as OpenBLAS, hence the first line of the output.  One vector; matrices and vectors are cut by
rows into equal parts, as PETSc has them.

``dense``: all weights.  ``sparse``: those that are left of a network cut at ``--comm-budget``, in the rows
of each rank its own columns and some of the others', as PETSc's sparse matrices, whose products send only
what is needed.  PETSc's input is always cut by rows; with ``--input-placement replicated`` (the default of
both) the first layer, whose columns are then all in use, stays dense, with ``partitioned`` it is cut as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from petsc4py import PETSc

from repurpose_hpc.bench.turns import REPEATS, in_turns, together
from repurpose_hpc.commands.parser import argument_type
from repurpose_hpc.fields import integer, listed
from repurpose_hpc.plan.plan import PARTITIONED, REPLICATED

LAYERS = 4
POSITIVE = argument_type(integer(1))
INTEGERS = argument_type(listed(integer(1), "integers"))


def main() -> None:
    """Print a line for every width, on the root."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=INTEGERS, default=(1024, 4096, 8192), metavar="N,N,...")
    parser.add_argument("--comm-budget", type=float, default=0.05, metavar="F")
    parser.add_argument("--input-placement", choices=(REPLICATED, PARTITIONED), default=REPLICATED)
    parser.add_argument("--repeat", type=POSITIVE, default=REPEATS, metavar="N")
    args = parser.parse_args()
    whole_layers = 1 if args.input_placement == REPLICATED else 0
    comm = PETSc.COMM_WORLD.tompi4py()
    if comm.rank == 0:
        print(f"BLAS: {loaded_blas()}", flush=True)
    for width in args.widths:
        turns = {
            name: together(checked(width, args.comm_budget, whole, comm), comm, comm.Barrier)
            for name, whole in (("dense", LAYERS), ("sparse", whole_layers))
        }
        for name, spread in in_turns(turns, args.repeat).items():
            if comm.rank == 0:
                print(
                    f"n {width}, {comm.size} ranks, {name}: median {spread.median:,.1f} us "
                    f"({spread.p10:,.1f} to {spread.p90:,.1f}, {spread.repeats} repeats)",
                    flush=True,
                )


def loaded_blas() -> str:
    """Files of the BLAS libraries in this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return ", ".join(sorted({line.split()[-1] for line in lines if "blas" in line.rpartition("/")[2]}))


def checked(width: int, budget: float, whole: int, comm) -> Callable[[], PETSc.Vec]:
    """A forward pass, after a look at this rank's rows of it; the first ``whole`` layers are dense."""
    first, end = (width * rank // comm.size for rank in (comm.rank, comm.rank + 1))
    weights = [weights_of(width, layer) for layer in range(LAYERS)]
    weights[whole:] = [cut(W, budget, comm.size) for W in weights[whole:]]
    x, *biases = (np.random.default_rng(LAYERS + index).standard_normal(width) for index in range(LAYERS + 1))
    sizes = end - first, width
    layers = [
        (
            matrix(W[first:end], sizes, comm, is_dense=layer < whole),
            vector(b[first:end], sizes, comm),
            vector(None, sizes, comm),
        )
        for layer, (W, b) in enumerate(zip(weights, biases, strict=True))
    ]
    start = vector(x[first:end], sizes, comm)

    def forward() -> PETSc.Vec:
        y = start
        for index, (A, b, out) in enumerate(layers):
            A.multAdd(y, b, out)
            if index < LAYERS - 1:
                values = out.getArray()
                np.maximum(values, 0, out=values)
            y = out
        return y

    expected = x
    for index, (W, b) in enumerate(zip(weights, biases, strict=True)):
        expected = W @ (np.maximum(expected, 0) if index else expected) + b
    difference = np.abs(forward().getArray() - expected[first:end]).max()
    if difference > 1e-10 * np.abs(expected).max():
        raise SystemExit(f"PETSc differs from NumPy by {difference:.3g}: nothing is timed")
    return forward


def weights_of(width: int, layer: int) -> np.ndarray:
    """Random weights (width, width), float64."""
    return np.random.default_rng(layer).standard_normal((width, width)) * (2 / width) ** 0.5


def cut(W: np.ndarray, budget: float, ranks: int) -> np.ndarray:
    """W with a fraction of what ranks need of each other: the columns with the largest norm."""
    W = W.copy()
    bounds = [len(W) * rank // ranks for rank in range(ranks + 1)]
    for first, end in zip(bounds, bounds[1:], strict=False):
        others = np.r_[:first, end : len(W)]
        norms = np.square(W[first:end, others]).sum(axis=0)
        W[first:end, others[np.argsort(norms)[: others.size - round(budget * others.size)]]] = 0
    return W


def matrix(rows: np.ndarray, sizes: tuple[int, int], comm, is_dense: bool) -> PETSc.Mat:
    """A matrix of which this rank has ``rows``; only those that are not zero, unless it is dense."""
    if not is_dense:
        columns = [np.flatnonzero(row) for row in rows]
        ends = np.cumsum([0, *map(len, columns)])
        indptr, indices = (array.astype(PETSc.IntType) for array in (ends, np.concatenate(columns)))
        return PETSc.Mat().createAIJ((sizes, sizes), csr=(indptr, indices, rows[rows != 0]), comm=comm)
    A = PETSc.Mat().createDense((sizes, sizes), comm=comm)
    A.setUp()
    A.getDenseArray()[:] = rows
    A.assemble()
    return A


def vector(values: np.ndarray | None, sizes: tuple[int, int], comm) -> PETSc.Vec:
    """A vector of which this rank has ``values``; None: zeros."""
    v = PETSc.Vec().createMPI(sizes, comm=comm)
    v.getArray()[:] = 0 if values is None else values
    return v


if __name__ == "__main__":
    main()
