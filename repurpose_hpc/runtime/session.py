"""A restructured network to call from Python: arrays in, arrays out.

Without a communicator one process hosts all workers, and MPI is never started.  With one, every rank hosts
its share: the root sends the others the samples where only it has them, ranks exchange ghosts and sums as
in ``infer``, and the outputs are gathered on the root.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.samples import Samples, check_finite, check_range
from repurpose_hpc.model.forward import apply_heads
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.precision import precision
from repurpose_hpc.model.signals import Pieces
from repurpose_hpc.mpi.agreement import agreed, check_same
from repurpose_hpc.mpi.groups import Groups
from repurpose_hpc.plan.files.store import StoredPlan, open_plan, read_shard
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.shard import Shard, make_shard
from repurpose_hpc.runtime.exchange.choose import check_named, check_transport
from repurpose_hpc.runtime.exchange.transports import DEFAULT_TRANSPORT
from repurpose_hpc.runtime.hosting import hosted_workers
from repurpose_hpc.runtime.options import RunOptions
from repurpose_hpc.runtime.program import Program
from repurpose_hpc.runtime.resources import Formats
from repurpose_hpc.runtime.shards import cast as cast_shard
from repurpose_hpc.runtime.shards import one_by_one
from repurpose_hpc.runtime.streams.joined import SignalReader
from repurpose_hpc.runtime.streams.outputs import FiniteOutputs, OutputGather, in_order

if TYPE_CHECKING:
    from mpi4py import MPI


class Cut(Protocol):
    """A network that was restructured, such as ``Restructured``."""

    @property
    def network(self) -> Network:
        """The adjusted weights."""

    @property
    def plan(self) -> Plan:
        """Owners and masks."""


class Session:
    """A restructured network, ready to run.

    *Collective* over ``comm``, if there is one, are the constructor, ``run`` and ``close``.  A session is
    a context manager; leaving the block closes it.
    """

    def __init__(
        self,
        source: Cut | StoredPlan | str | Path,
        comm: MPI.Comm | None = None,
        *,
        batch_size: int = 256,
        dtype: type = np.float32,
        transport: str = DEFAULT_TRANSPORT,
        deterministic: bool = False,
    ) -> None:
        """Load or cut this rank's part of the network.

        Args:
            source: what ``restructure_network`` returned, the same on every rank; or a directory of
                shards, or what ``open_plan`` read of it.
            comm: at most as many ranks as there are workers; None: this process hosts all workers.
            batch_size: samples per forward, at most, 1 or more.
            dtype: float32 or float64, to compute in.
            transport: how exchanges are carried, one of ``TRANSPORTS``.
            deterministic: let outputs have the same bits for any number of ranks, batch size and transport.

        Raises:
            UserError: on every rank: something else than these arguments, or not the same ones on all
                ranks; more ranks than workers; files that are missing or damaged; a transport that these
                ranks cannot use.
        """
        self._comm = comm
        ranks, rank = (1, 0) if comm is None else (comm.size, comm.rank)
        with agreed(comm):
            options = RunOptions(
                batch_size=batch_size,
                dtype=precision(dtype),
                transport=transport,
                deterministic=deterministic,
            )
            check_named(transport)
            plan = opened(source)
            shards = hosted_shards(plan, ranks, rank, options.dtype)
            shards[0].graph.check_samples()
            if deterministic:
                shards = [one_by_one(shard) for shard in shards]
        common = {
            "batch_size": batch_size,
            "dtype": options.dtype,
            "transport": transport,
            "deterministic": deterministic,
            "plan": plan.plan.identity(),
        }
        check_same(common, comm)
        check_transport(transport, Groups(comm))
        self._batch_size, self._dtype, self._graph = options.batch_size, options.dtype, shards[0].graph
        formats = Formats(comm_dtype=plan.plan.comm_dtype)
        self._program: Program | None = Program(
            shards, comm, options.batch_size, formats, transport, deterministic=deterministic
        )
        self._gather = None
        if comm is not None:
            columns = self._program.output_columns
            self._gather = OutputGather(comm, columns, self._dtype, options.batch_size)

    def run(self, x: np.ndarray | None) -> np.ndarray | tuple[np.ndarray, ...] | None:
        """Compute the outputs of samples; collective.

        Args:
            x: samples first, (samples, ...), each as the model takes it or flattened.  With a
                communicator the root must have it, and sends it to ranks that give None; other ranks may
                give the same array.

        Returns:
            on the root the outputs in the order of the model, each (samples, neurons) or (samples, channels)
            and positions, ``dtype``, or as the back of the model makes them; a tuple where the model has
            several outputs.  None elsewhere.

        Raises:
            UserError: on every rank: values that are not finite in ``dtype``, another shape, not the same
                array on all ranks, or a session that is closed.
        """
        if self._program is None:
            raise UserError("run: expected an open session, found one that was closed; open another one")
        samples = self._checked(x)
        is_root = self._comm is None or self._comm.rank == 0
        flat = np.empty((len(samples), self._graph.outputs if is_root else 0), self._dtype)
        for first in range(0, len(samples), self._batch_size):
            batch = samples[first : first + self._batch_size, self._program.input_columns]
            rows = self._program.forward(np.ascontiguousarray(batch.T))
            outputs = self._gathered(rows, self._program.output_columns)
            if outputs is not None:
                flat[first : first + len(outputs)] = outputs
        if not is_root:
            return None
        flat = apply_heads(self._graph, flat)
        finite = FiniteOutputs()
        finite.add(flat)
        finite.warn(self._dtype)
        return self._shaped(flat)

    def signal(self, blocks: Iterable[np.ndarray | None]) -> Iterator[np.ndarray | None]:
        """Compute the outputs of one signal that comes block by block and need not end; collective.

        Ranks go on together: each takes a block, the root sends others the pieces that it completes, and all
        yield once.  The outputs are exactly those of the network built for the whole signal; the last of them
        come when the signal has ended.

        Args:
            blocks: on the root parts of the signal, in order, of any length along time, with the axes of a
                sample (see ``Pieces``).  Other ranks give as many of None.

        Yields:
            on the root the outputs that are new, (outputs, neurons), for every block, and once more at the
            end; None elsewhere.  An output comes with the block that completes its piece.

        Raises:
            UserError: on every rank: a network that takes no signals, another shape, values that are not
                finite, or a signal that ends before a piece is full, or between two steps.
        """
        with agreed(self._comm):
            reader = SignalReader(Pieces.of(self._graph))
        for block in blocks:
            yield self._pieces(reader, block)
        yield self._pieces(reader, None, is_end=True)

    def _pieces(
        self, reader: SignalReader, block: np.ndarray | None, is_end: bool = False
    ) -> np.ndarray | None:
        """The outputs of the pieces that a block, or the end, completes; collective."""
        is_root = self._comm is None or self._comm.rank == 0
        x = None
        with agreed(self._comm):
            if is_root:
                x = reader.end() if is_end else reader.add(block)
        count = len(x) if x is not None else 0
        if self._comm is not None:
            count = self._comm.bcast(count, root=0)
        y = self.run(x) if count else None
        return reader.joined(cast("np.ndarray | None", y), is_end) if is_root else None

    def close(self) -> None:
        """Give back what MPI keeps; collective.  A closed session cannot run."""
        if self._program is not None:
            self._program.free()
        self._program = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:  # a rank that failed must not wait for the others
            self.close()

    def _checked(self, x: np.ndarray | None) -> np.ndarray:
        """The samples, (samples, inputs), on every rank."""
        with agreed(self._comm):
            if x is None and (self._comm is None or self._comm.rank == 0):
                raise UserError("x: expected an array of samples on the root, found None; give it there")
            if x is not None:
                samples = self._graph.ends.feed(Samples.of(x), self._graph.input_shape)
                with np.errstate(over="ignore"):  # what becomes infinite is refused
                    rows, x = self._flat(x, samples)
                check_range(rows, x, samples.name)
                check_finite(x, samples.name)
        return self._of_root(x)

    def _flat(self, x: np.ndarray, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
        """The samples as the network takes them, (samples, inputs), in their dtype and in that of the run."""
        if self._graph.ends.front is None:
            rows = np.asarray(x).reshape(samples.samples, samples.width)
        else:
            rows = np.concatenate(list(samples.batches(self._batch_size, dtype=None)))
        return rows, rows.astype(self._dtype, copy=False)

    def _of_root(self, x: np.ndarray | None) -> np.ndarray:
        """The samples of the root, on every rank; those of other ranks must be the same."""
        if self._comm is not None:
            givers = sum(self._comm.allgather(x is not None))
            if givers > 1:
                _check_same_samples(x, self._comm)
            if givers < self._comm.size:
                x = self._comm.bcast(x, root=0)
        if x is None:
            raise RuntimeError("expected the samples of the root")
        return x

    def _gathered(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray | None:
        """A batch of outputs on the root, (batch, outputs)."""
        if self._gather is not None:
            return self._gather(np.ascontiguousarray(rows))
        return in_order(rows, columns)

    def _shaped(self, flat: np.ndarray) -> np.ndarray | tuple[np.ndarray, ...]:
        """Outputs as the model has them, from those of the network, (samples, outputs)."""
        graph, parts, first = self._graph, [], 0
        if graph.ends.back is not None:
            parts = graph.ends.finish(flat)
            return parts[0] if len(parts) == 1 else tuple(parts)
        for tensor in graph.output_tensors:
            part = flat[:, first : first + graph.size(tensor)]
            first += part.shape[1]
            parts.append(part.reshape(len(flat), *graph.layout(tensor)))
        return parts[0] if len(parts) == 1 else tuple(parts)


def opened(source: object) -> Cut | StoredPlan:
    """A network that was cut, or the plan of one on disk.

    Raises:
        UserError: something else.
    """
    if isinstance(source, (str, Path)):
        return open_plan(source)
    if isinstance(source, StoredPlan) or isinstance(getattr(source, "plan", None), Plan):
        return cast("Cut | StoredPlan", source)
    raise UserError(
        f"source: expected a restructured network or a directory of shards, got {type(source).__name__}; "
        "restructure_network makes one"
    )


def hosted_shards(source: Cut | StoredPlan, ranks: int, rank: int, dtype: np.dtype) -> list[Shard]:
    """The shards of the workers that this rank hosts."""
    hosted = hosted_workers(source.plan.workers, ranks, rank)
    if isinstance(source, StoredPlan):
        return [cast_shard(read_shard(source, worker), dtype) for worker in hosted]
    return [make_shard(source.network, source.plan, worker, dtype.type) for worker in hosted]


def _check_same_samples(x: np.ndarray | None, comm: MPI.Comm) -> None:
    """Refuse samples that differ between ranks that have any, on every rank; collective."""
    digests = comm.allgather(None if x is None else Samples.of(x).fingerprint())
    if len({*digests} - {None}) > 1:
        raise UserError(
            "x: expected the same samples on every rank that has any, found others; give them to "
            "the root alone, and None elsewhere"
        )
