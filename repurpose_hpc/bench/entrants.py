"""Entrants: programs that run one chain of layers, ours and those of peers, for batches of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType

import numba
import numpy as np
from mpi4py import MPI

from repurpose_hpc.bench.candidate import Candidate
from repurpose_hpc.bench.kernels import aligned, product
from repurpose_hpc.bench.peers import ONNXRUNTIME, TORCH, Peers, bare_mpi, numpy_alone
from repurpose_hpc.bench.peers.bare_mpi import MakeExchange
from repurpose_hpc.bench.peers.numpy_alone import Layers
from repurpose_hpc.bench.placement import Placement
from repurpose_hpc.bench.turns import Conditions
from repurpose_hpc.model.activations import IDENTITY, RELU
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.plan import PARTITIONED, Plan, dense_plan
from repurpose_hpc.plan.shard import make_shard
from repurpose_hpc.process import openblas
from repurpose_hpc.process.threads import using_threads
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.synthetic import cut_at_budget, random_network
from repurpose_hpc.runtime.hosting import hosted_workers
from repurpose_hpc.runtime.lowering.blocks import DenseProduct, epilogue_of
from repurpose_hpc.runtime.program import Program, one_process

LAYERS, SEED = 4, 0
RESTRUCTURED, DENSE, SINGLE_RESTRUCTURED = "restructured", "dense", "single_restructured"

Make = Callable[[np.ndarray], Candidate]


@dataclass(frozen=True, eq=False)
class Entrant:
    """A program that runs a network.

    Attributes:
        make: the candidate for a batch X, (n, batch).
        network: what it runs, for the reference, on the root; None elsewhere.
        threads: of a process that is alone, on the root; 0: it is all ranks together.
    """

    make: Make
    network: Network | None
    threads: int = 0


class Chain:
    """A chain of square layers with random weights and biases.

    Attributes:
        network, layers: the same, twice.
        cut, cut_plan: the same, restructured.
        max_batch: samples of the largest batch.
        dtype: of everything.
        input_placement: for all ranks together: REPLICATED, or PARTITIONED: rank q has block q.

    Args:
        width: neurons of a layer.
        ranks, comm_budget: of the restructured network.
    """

    def __init__(
        self,
        width: int,
        ranks: int,
        comm_budget: float,
        max_batch: int,
        dtype: np.dtype,
        input_placement: str,
    ) -> None:
        network, draw = random_network(width, LAYERS, SEED), np.random.default_rng(SEED + 1)
        biased = {
            mixing.name: replace(mixing, bias=draw.standard_normal(width, np.float32))
            for mixing in network.mixings
        }
        self.network = network.with_mixings(biased).astype(dtype.type)
        self.layers: Layers = [(mixing.W, mixing.bias) for mixing in self.network.mixings]
        options = Options(workers=ranks, comm_budget=comm_budget, input_placement=input_placement)
        self.cut, self.cut_plan = cut_at_budget(self.network, options)
        self.max_batch, self.dtype, self.input_placement = max_batch, dtype, input_placement


def on_all_ranks(chain: Chain, gloo: ModuleType | None, comm: MPI.Intracomm) -> dict[str, Entrant]:
    """The entrants that are all ranks together, by name; collective.

    Args:
        chain: the same on all ranks.
        gloo: ``peers.gloo`` with a process group; None: there is none.
        comm: of the job.
    """
    network, ranks = chain.network, comm.size
    partitioned = chain.input_placement == PARTITIONED
    plan = dense_plan(network, ranks, chain.input_placement, np.ones(ranks))
    block = _block(chain.layers[0][0], comm)
    rows = [(W[block].copy(), b[block]) for W, b in chain.layers]
    products = [DenseProduct(W) for W, _ in rows]

    def by_hand(make: Make, gather: MakeExchange) -> Make:
        whole = partial(_whole_input, make, gather, comm) if partitioned else make
        return partial(_gathered, whole, comm)

    makers: dict[str, Make] = {
        DENSE: _program(network, plan, chain, comm),
        "mpi_allgather": by_hand(partial(_allgather, products, rows, comm), bare_mpi.allgather),
    }
    if gloo is not None:
        makers["gloo"] = by_hand(partial(gloo.network, rows), gloo.all_gather)
        dtensor = gloo.ParallelChain(chain.layers, partitioned).network
        makers["dtensor"] = partial(_gathered, dtensor, comm) if partitioned else dtensor
    restructured = _program(chain.cut, chain.cut_plan, chain, comm)
    whole, whole_cut = (network, chain.cut) if comm.rank == 0 else (None, None)
    entrants = {name: Entrant(make, whole) for name, make in makers.items()}
    return {RESTRUCTURED: Entrant(restructured, whole_cut)} | entrants


def _program(network: Network, plan: Plan, chain: Chain, comm: MPI.Intracomm) -> Make:
    """The project's program on all ranks of ``comm``; the root gathers the output."""
    hosted = hosted_workers(plan.workers, comm.size, comm.rank)
    shards = [make_shard(network, plan, worker, chain.dtype.type) for worker in hosted]
    program, outputs = Program(shards, comm, chain.max_batch), network.outputs

    def output(y: np.ndarray) -> np.ndarray:
        result = np.zeros((outputs, y.shape[1]), y.dtype)
        for columns, part in comm.gather((program.output_columns, y), root=0) or []:
            result[columns] = part
        return result

    return lambda X: Candidate(
        partial(program.forward, np.ascontiguousarray(X[program.input_columns])), output
    )


def _allgather(products: list[DenseProduct], rows: Layers, comm: MPI.Intracomm, X: np.ndarray) -> Candidate:
    """Hand-written: the project's kernels on this rank's rows, and MPI_Allgather between the layers."""
    inputs = [X, *(aligned(np.zeros_like(X)) for _ in rows[1:])]
    outs = [aligned(np.zeros((len(W), X.shape[1]), X.dtype)) for W, _ in rows]
    ends = [RELU] * (len(rows) - 1) + [IDENTITY]
    *steps, last_product = [
        product(dense_product, full, b[:, None], out, epilogue_of(end)).call
        for dense_product, full, (_, b), out, end in zip(products, inputs, rows, outs, ends, strict=True)
    ]
    hidden = list(zip(steps, outs[:-1], inputs[1:], strict=True))

    def run() -> object:
        for step, out, full in hidden:
            step()
            comm.Allgather(out, full)
        return last_product()

    return Candidate(run)


def absent(X: np.ndarray) -> Candidate:
    """The ``make`` of an entrant in which this rank takes no part; never called."""
    raise RuntimeError("this rank takes no part")


def _block(values: np.ndarray, comm: MPI.Intracomm) -> slice:
    """This rank's of equal parts of the rows of ``values``."""
    height = len(values) // comm.size
    return slice(comm.rank * height, (comm.rank + 1) * height)


def _whole_input(make: Make, gather: MakeExchange, comm: MPI.Intracomm, X: np.ndarray) -> Candidate:
    """A candidate that needs all of X, where each rank begins with its block: a call gathers them first."""
    block, full = X[_block(X, comm)].copy(), aligned(np.zeros_like(X))
    candidate, gather_blocks = make(full), gather(comm, block.reshape(1, -1), full)

    def run() -> object:
        gather_blocks()
        return candidate.call()

    return replace(candidate, call=run)


def _gathered(make: Make, comm: MPI.Intracomm, X: np.ndarray) -> Candidate:
    """A candidate whose ranks have equal parts of the output; the root gathers them."""
    candidate = make(X)

    def output(y: object) -> np.ndarray:
        result = np.empty(X.shape, X.dtype)
        comm.Gather(np.ascontiguousarray(candidate.output(y)), result, root=0)
        return result

    return replace(candidate, output=output)


def single_processes(chain: Chain, placement: Placement, peers: Peers) -> dict[str, Entrant]:
    """The entrants that are one process, by name.

    They have 1 and 2 threads, and one for every rank, as far as there are cores.
    """
    cut = _program(chain.cut, chain.cut_plan, chain, MPI.COMM_SELF)
    entrants = {SINGLE_RESTRUCTURED: Entrant(cut, chain.cut, threads=1)}
    for threads in sorted({number for number in (2, placement.ranks) if number <= placement.physical} | {1}):
        makers = {"single": _single(chain, threads, placement, peers)}
        makers |= _peers(chain.layers, threads, placement, peers)
        entrants |= {
            f"{name}_{threads}": Entrant(make, chain.network, threads) for name, make in makers.items()
        }
    return entrants


def _single(chain: Chain, threads: int, placement: Placement, peers: Peers) -> Make:
    """The project, one process."""
    program = one_process(chain.network, chain.dtype, chain.max_batch, threads=threads)
    conditions = _conditions(threads, placement, numba_threads)
    with conditions():
        program.forward(np.zeros((program.input_columns.size, 1), chain.dtype))
    if TORCH in peers and threads > 1:
        from repurpose_hpc.bench.peers import torch_alone

        # Numba's threads, when they are started, tell OpenMP how many there are: torch would take as many.
        torch_alone.prepare()
    return lambda X: Candidate(partial(program.forward, X), conditions=conditions)


def _peers(layers: Layers, threads: int, placement: Placement, peers: Peers) -> dict[str, Make]:
    makers: dict[str, Make] = {}
    if threads == 1 or openblas.core_name():
        conditions = _conditions(threads, placement, openblas.threads)
        makers["numpy"] = partial(numpy_alone.network, layers, conditions=conditions)
    if TORCH in peers:
        from repurpose_hpc.bench.peers import torch_alone

        conditions = _conditions(threads, placement, torch_alone.threads)
        makers["torch"] = partial(torch_alone.network, layers, conditions=conditions)
    if ONNXRUNTIME in peers:
        from repurpose_hpc.bench.peers import onnx_alone

        if onnx_alone.fits(layers):
            conditions = _conditions(threads, placement, lambda _: nullcontext())
            with conditions():
                session = onnx_alone.session(layers, threads)
            makers["onnxruntime"] = partial(onnx_alone.network, session, conditions=conditions)
        else:
            peers.leave_out(
                ONNXRUNTIME, f"layers of {len(layers[0][0])} neurons are too large for its format"
            )
    return makers


def numba_threads(number: int) -> AbstractContextManager[None]:
    """A block in which so many of Numba's threads are awake."""
    return using_threads(number, numba.get_num_threads, numba.set_num_threads)


def _conditions(
    number: int, placement: Placement, threads: Callable[[int], AbstractContextManager]
) -> Conditions:
    """Conditions with so many threads, free to use all cores; a single one stays where the rank is pinned."""
    if number == 1:
        return nullcontext

    @contextmanager
    def conditions() -> Iterator[None]:
        with placement.all_cores(), threads(number):
            yield

    return conditions
