"""A rank's part of a restructured network, ready to run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from repurpose_hpc.model.activations import IDENTITY
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Elementwise, Mixing, Operation
from repurpose_hpc.plan.plan import single_worker_plan
from repurpose_hpc.plan.shard import Shard, make_shard
from repurpose_hpc.runtime.buffers import Buffer, Scratch, parts_of
from repurpose_hpc.runtime.exchange.exchange import Sharing
from repurpose_hpc.runtime.exchange.messages import Tally
from repurpose_hpc.runtime.exchange.transfers import GhostTransfer
from repurpose_hpc.runtime.exchange.transports.table import DEFAULT_WAY, SHARED
from repurpose_hpc.runtime.hosting import Hosting
from repurpose_hpc.runtime.lowering.blocks import PHASES, Epilogue, epilogue_of
from repurpose_hpc.runtime.lowering.local import ENDING, LocalStep
from repurpose_hpc.runtime.lowering.mixings import MixingStep
from repurpose_hpc.runtime.schedule.rounds import Step, in_rounds
from repurpose_hpc.runtime.schedule.schedule import Schedule
from repurpose_hpc.runtime.setting import EXACTLY, Formats, Setting


class Program:
    """A rank's part of a restructured network: the hosted workers' steps over local arrays.

    Memory is allocated at construction, for ``max_batch`` samples.  For each batch size that
    occurs, the steps become one list of calls on views of that memory, made once.

    Attributes:
        input_columns: values of a sample (columns of the input file) that this rank must supply, in
            this order; two workers' common columns of a replicated input occur twice; int64.
        output_columns: values of the outputs that this rank computes, in this order; int64.
        max_batch: most samples of a forward.
        dtype: of weights, inputs and outputs.
        values_sent: values per sample that this rank sends to others in one forward; zeros as well, even if
            the way leaves them out.
        bytes_sent: what these take.
        messages: messages that it sends in one forward of ``max_batch`` samples: other ranks with a non-zero
            count, summed over the exchanges of all parts.
        blocks: one entry for each mixing and hosted worker: "layer", "worker", "rows" and
            "columns" (own neurons of target and source), "ghosts" (received), "sums" (partial
            sums sent), "weights" (non-zero) and "format" ("dense" or "csr").
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        comm: MPI.Comm,
        max_batch: int,
        formats: Formats = EXACTLY,
        way: str = DEFAULT_WAY,
        threads: int = 1,
        micro_batches: int = 1,
    ) -> None:
        """Collective over ``comm``.

        Args:
            shards: those of the workers that this rank hosts (``hosted_workers``), ascending.  Their
                ``blocks`` are taken over: they are gone afterwards, so that no weights are held twice.
            comm: its ranks host all workers; COMM_SELF for a single process.
            max_batch: most samples that one ``forward`` takes.
            formats: of weights and ghosts.
            way: how exchanges are carried, one of ``CARRIERS``.
            threads: that share the rows of a kernel; see ``parallel.use_threads``.
            micro_batches: parts, at most, in which a batch goes through the network (see ``schedule``).

        Raises:
            UserError: there are more ranks than workers.
            ValueError: ``shards`` are those of other workers.
        """
        graph = shards[0].graph
        self._graph, self.max_batch = graph, max_batch
        self.dtype = next(iter(shards[0].blocks.values())).bias.dtype
        hosting, scratch = Hosting(shards, comm.size, comm.rank), Scratch(self.dtype)
        self._setting = Setting(hosting, comm, max_batch, scratch, formats, threads)
        self.input_columns = self._columns(graph.input_tensors)
        self.output_columns = self._columns(graph.output_tensors)
        self._tensors = {tensor: self._buffer(tensor) for tensor in graph.input_tensors}
        self._ghosts: dict[str, GhostTransfer] = {}
        steps = self._make_steps(shards)
        self._rounds = in_rounds(steps, graph, self._setting)
        self._schedules: dict[int, Schedule] = {}
        self._way, self._micro_batches = way, micro_batches
        self._sharing: Sharing | None = None

        self._exchanges = [exchange for each in self._rounds for exchange in each.exchanges]
        self.values_sent = sum(exchange.values_sent for exchange in self._exchanges)
        self.bytes_sent = sum(exchange.bytes_sent for exchange in self._exchanges)
        parts = len(parts_of(max_batch, micro_batches))
        self.messages = parts * sum(exchange.messages for exchange in self._exchanges)
        mixings = [step for _, step in steps if isinstance(step, MixingStep)]
        self.blocks = [entry for mixing in mixings for entry in mixing.described]
        self.reset()

    def forward(self, X: np.ndarray) -> np.ndarray:
        """Run one batch; collective, all ranks with the same batch size.

        Args:
            X: (len(input_columns), batch), ``dtype``, batch <= max_batch.

        Returns:
            (len(output_columns), batch), valid until the next forward; the heads are not applied.
        """
        batch = X.shape[1]
        if batch not in self._schedules:
            self._schedules[batch] = self._schedule(batch)
        if X.shape != (self.input_columns.size, batch):
            raise ValueError(f"expected inputs of shape {(self.input_columns.size, batch)}, found {X.shape}")
        self._samples += batch
        return self._schedules[batch].run(X, self._seconds)

    @property
    def seconds(self) -> dict[str, float]:
        """Accumulated since ``reset``: "pack" (moving rows), "exchange" (posting), "wait" (for other
        ranks) and "compute"."""
        return dict(zip(PHASES, self._seconds.tolist(), strict=True))

    @property
    def sent_bytes_per_sample(self) -> float | None:
        """What this rank has sent to others since ``reset``, the mean over the samples.

        None if the way always sends ``bytes_sent``, or nothing was sent yet.
        """
        tallies = self._tallies()
        if not tallies or not self._samples:
            return None
        return sum(tally.bytes for tally in tallies) / self._samples

    def _tallies(self) -> list[Tally]:
        return [tally for schedule in self._schedules.values() for tally in schedule.tallies]

    @property
    def way(self) -> str:
        """How exchanges are carried; may be changed between forwards, by all ranks together.

        Setting it raises UserError, on all ranks, if there is no memory to share for it.
        """
        return self._way

    @way.setter
    def way(self, way: str) -> None:
        self.free()
        if way == SHARED:
            self._share()
        self._way = way

    def free(self) -> None:
        """Give back what MPI keeps for the batch sizes so far; collective."""
        self._schedules, self._samples = {}, 0
        for exchange in self._exchanges:
            exchange.free()
        if self._sharing is not None:
            self._sharing.free()
            self._sharing = None

    def _share(self) -> None:
        self._sharing = Sharing(self._exchanges, self._setting.comm, self._micro_batches)

    def reset(self) -> None:
        """Forget the time spent and the bytes counted so far."""
        self._seconds, self._samples = np.zeros(len(PHASES)), 0
        for tally in self._tallies():
            tally.bytes = 0

    def _columns(self, tensors: Sequence[str]) -> np.ndarray:
        """The places, among the values of all ``tensors``, of those that this rank holds."""
        columns, first = [np.empty(0, np.int64)], 0
        for tensor in tensors:
            values = self._graph.values(tensor)
            neurons = self._setting.hosting.neurons(self._graph.space_of[tensor])
            columns.append(first + (neurons[:, None] * values + np.arange(values)).ravel())
            first += self._graph.size(tensor)
        return np.concatenate(columns)

    def _buffer(self, tensor: str) -> Buffer:
        rows = self._setting.hosting.neurons(self._graph.space_of[tensor]).size
        return Buffer(rows, self.max_batch, self.dtype, self._graph.values(tensor))

    def _make_steps(self, shards: Sequence[Shard]) -> list[tuple[Operation, Step]]:
        """A step for each operation, in order; an activation that alone reads its target is part of it."""
        steps: list[tuple[Operation, Step]] = []
        fused = _fused_activations(self._graph)
        for op in self._graph.operations:
            if op in fused.values():
                continue
            activation = fused.get(op.target)
            target = activation.target if activation else op.target
            epilogue = epilogue_of(activation.activation if activation else IDENTITY)
            self._tensors[target] = self._buffer(target)
            make = self._mixing_step if isinstance(op, Mixing) else self._local_step
            steps.append((op, make(op, shards, target, epilogue)))
        return steps

    def _mixing_step(
        self, op: Mixing, shards: Sequence[Shard], target: str, epilogue: Epilogue
    ) -> MixingStep:
        step = MixingStep(
            op,
            [shard.blocks.pop(op.name) for shard in shards],
            self._tensors[op.source],
            self._tensors[target],
            (self._graph.space_of[op.source], self._graph.space_of[op.target]),
            epilogue,
            self._ghosts.get(op.source),
            self._setting,
        )
        self._ghosts[op.source] = step.ghosts
        return step

    def _local_step(
        self, op: Operation, shards: Sequence[Shard], target: str, epilogue: Epilogue
    ) -> LocalStep:
        sources = [self._tensors[source] for source in op.sources]
        spaces = [self._graph.space(tensor) for tensor in (*op.sources, op.target)]
        return LocalStep(op, sources, self._tensors[target], spaces, self._setting.hosting, epilogue)

    def _schedule(self, batch: int) -> Schedule:
        if not 0 < batch <= self.max_batch:
            raise ValueError(f"expected 1 to {self.max_batch} samples, found {batch}")
        if self._way == SHARED and self._sharing is None:
            self._share()
        inputs, outputs = (
            [self._tensors[tensor] for tensor in tensors]
            for tensors in (self._graph.input_tensors, self._graph.output_tensors)
        )
        parts = parts_of(batch, self._micro_batches)
        return Schedule(self._rounds, inputs, outputs, parts, self._way, self._setting)


def one_process(
    network: Network, dtype: np.dtype, max_batch: int, formats: Formats = EXACTLY, threads: int = 1
) -> Program:
    """The program of a single process that has all of a network: what ranks are compared with."""
    shard = make_shard(network, single_worker_plan(network), 0, dtype.type)
    return Program([shard], MPI.COMM_SELF, max_batch, formats, threads=threads)


def _fused_activations(graph: Network) -> dict[str, Elementwise]:
    """By the target of an operation that can end with an activation: the one that is its only reader."""
    read = [source for op in graph.operations for source in op.sources]
    made = {op.target for op in graph.operations if isinstance(op, ENDING)} - {*graph.output_tensors}
    return {
        op.source: op
        for op in graph.operations
        if isinstance(op, Elementwise) and op.source in made and read.count(op.source) == 1
    }
