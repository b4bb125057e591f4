"""A file in and a file out: the stream of a restructured network beside a script around ONNX Runtime.

Of ours it is the stream of ``infer``, as that reports it: reading, computing, gathering and writing, until
the file has its name.  Beside it are the forwards alone, on a batch in memory.  The script reads, computes
and writes batch by batch, in one process on the root while the other ranks sleep.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from mpi4py import MPI

from repurpose_hpc.bench.candidate import check
from repurpose_hpc.bench.options import FILES, StreamOptions
from repurpose_hpc.bench.peers import ONNXRUNTIME, Peers
from repurpose_hpc.bench.peers.numpy_alone import Layers
from repurpose_hpc.bench.placement import Placement
from repurpose_hpc.bench.table import BenchTable
from repurpose_hpc.bench.turns import Conditions, Turn, in_turns, on_root, rest, together
from repurpose_hpc.fields import count
from repurpose_hpc.model.activations import IDENTITY, RELU
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.forward import forward
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.weights import dense
from repurpose_hpc.mpi.agreement import collectively
from repurpose_hpc.plan.files.store import read_network
from repurpose_hpc.plan.relays import without_relays
from repurpose_hpc.runtime import inference
from repurpose_hpc.runtime.loading import load_shards
from repurpose_hpc.runtime.options import RunOptions
from repurpose_hpc.runtime.program import Program
from repurpose_hpc.runtime.setup import Job

STREAM, FORWARD = "stream", "forward"
FLOAT = np.dtype(np.float32)
SEED = 0


class Script(NamedTuple):
    """A program in one process.

    Attributes:
        run: goes from a file to a file with batches of a size.
        conditions: a block in which it is called.
    """

    run: Callable[[Path, Path, int], None]
    conditions: Conditions


def run(options: StreamOptions, placement: Placement, peers: Peers, comm: MPI.Intracomm) -> list[BenchTable]:
    """Measure, printing every row as it comes; collective.

    Args:
        options: ``shards``, ``batches``, ``samples``, ``files`` and ``repeat``.
        placement: of the ranks.
        peers: that there are.
        comm: of the job.
    """
    title = f"{count(options.samples, 'sample')} from file to file, {count(comm.size, 'rank')}; each batch"
    table = BenchTable("stream", title, STREAM, speaks=comm.rank == 0)
    stored, shards = load_shards(options.shards, FLOAT, comm)
    network, scripts = None, {}
    with collectively(comm):
        if comm.rank == 0:
            network = without_relays(read_network(stored), stored.plan)
            scripts = _scripts(network, placement, peers)
    names = comm.bcast([*scripts], root=0)
    program = Program(shards, comm, max(options.batches))
    for kind in options.files:
        with _folder(comm) as folder:
            source, expected = folder / f"x.{kind.split('-')[0]}", None
            with collectively(comm):
                if network is not None:
                    expected = _write_samples(source, kind, network, options.samples)
            for batch in options.batches:
                passes = _Passes(source, folder / "y.h5", options.samples, batch, expected, comm)
                turns = {STREAM: passes.of_ours(options.shards), FORWARD: passes.of_forwards(program)}
                turns |= {name: passes.of_script(name, scripts.get(name)) for name in names}
                spreads = in_turns(turns, options.repeat)
                each = {name: spread.divided(passes.count) for name, spread in spreads.items()}
                table.add({"file": kind, "batch": batch, "spreads": each})
    return [table]


@contextmanager
def _folder(comm: MPI.Intracomm) -> Iterator[Path]:
    """A temporary folder of the root, by its name on all ranks; collective."""
    with tempfile.TemporaryDirectory() as own:
        yield Path(comm.bcast(own, root=0))
        comm.Barrier()


def _write_samples(path: Path, kind: str, network: Network, samples: int) -> np.ndarray:
    """Write random samples; returns the outputs that the reference makes of them, (samples, outputs)."""
    x = np.random.default_rng(SEED).standard_normal((samples, network.inputs), FLOAT)
    storage = FILES[kind]
    if storage is None:
        np.save(path, x)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=x, **storage)
    return forward(network, x)


class _Passes:
    """Turns of which every call goes once through a file.

    Args:
        source: file of samples.
        target: file of outputs, made anew by every call.
        samples: in the file.
        batch: samples per batch, of which there are ``count``.
        expected: outputs of the reference, on the root; None elsewhere.
        comm: of the job.
    """

    def __init__(
        self,
        source: Path,
        target: Path,
        samples: int,
        batch: int,
        expected: np.ndarray | None,
        comm: MPI.Intracomm,
    ) -> None:
        self.source, self.target, self.samples, self.batch = source, target, samples, batch
        self.count, self.expected, self.comm = -(-samples // batch), expected, comm

    def of_ours(self, shards: Path) -> Turn:
        """The stream of ``infer``, without its start; collective."""
        job = Job(shards, self.source, self.target, RunOptions(batch_size=self.batch, repeat=0))

        def seconds() -> float:
            report = inference.run(job, None, self.comm)
            taken = None if report is None else self.samples / report["throughput"]
            return float(self.comm.bcast(taken, root=0))

        def turn(untimed: int, timed: int) -> np.ndarray:
            rest()
            return np.array([seconds() for _ in range(untimed + timed)])[untimed:]

        turn(0, 1)
        with collectively(self.comm):
            self._check(STREAM)
        return turn

    def of_forwards(self, program: Program) -> Turn:
        """As many forwards, of a batch in memory; collective."""
        x = np.zeros((program.input_columns.size, self.batch), program.dtype)

        def all_forwards() -> None:
            for _ in range(self.count):
                program.forward(x)

        return together(all_forwards, self.comm, self.comm.Barrier)

    def of_script(self, name: str, script: Script | None) -> Turn:
        """A script that is one process, on the root; None elsewhere; collective."""
        if script is None:
            with collectively(self.comm):
                return on_root(_no_call, self.comm)
        call = partial(script.run, self.source, self.target, self.batch)
        with collectively(self.comm):
            with script.conditions():
                call()
            self._check(name)
        return on_root(call, self.comm, script.conditions)

    def _check(self, name: str) -> None:
        """Compare the outputs in the file with those of the reference."""
        if self.expected is not None:
            with h5py.File(self.target) as file:
                check(name, file["y"][()], self.expected, FLOAT)


def _no_call() -> None:
    """The call of ranks that take no part."""


def _scripts(network: Network, placement: Placement, peers: Peers) -> dict[str, Script]:
    """Scripts around ONNX Runtime with 1 thread, and with one for every rank, by name."""
    layers = layers_of(network)
    if ONNXRUNTIME in peers and not layers:
        peers.leave_out(ONNXRUNTIME, "the network is no chain of dense layers with ReLU between them")
    if ONNXRUNTIME not in peers or not layers:
        return {}
    from repurpose_hpc.bench.peers import onnx_alone

    scripts = {}
    for threads in sorted({1, min(placement.ranks, placement.physical)}):
        conditions = placement.all_cores if threads > 1 else nullcontext
        with conditions():
            session = onnx_alone.session(layers, threads)
        scripts[f"onnxruntime_{threads}"] = Script(partial(onnx_alone.stream, session), conditions)
    return scripts


def layers_of(network: Network) -> Layers:
    """Weights and biases of a chain of dense layers with ReLU between them; empty: it is another network."""
    layers = [(dense(mixing.weights), mixing.bias) for mixing in network.mixings]
    weights, biases = ([*each] for each in zip(*layers, strict=True))
    try:
        same = chain(weights, biases, [RELU] * (len(layers) - 1) + [IDENTITY])
    except ValueError:
        return []
    if (same.inputs, same.outputs) != (network.inputs, network.outputs):
        return []
    x = np.random.default_rng(SEED).standard_normal((2, network.inputs))
    return layers if np.array_equal(forward(same, x), forward(network, x)) else []
