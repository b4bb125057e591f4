"""A rank's part of a restructured network, ready to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from repurpose_hpc.model.activations import IDENTITY
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Elementwise, Mixing, Operation
from repurpose_hpc.model.wire import code_dtype
from repurpose_hpc.plan.plan import single_worker_plan
from repurpose_hpc.plan.shard import Shard, make_shard
from repurpose_hpc.runtime.blocks import PHASES, Call, Epilogue, epilogue_of
from repurpose_hpc.runtime.buffers import Buffer, Scratch
from repurpose_hpc.runtime.carriers import DEFAULT_WAY, SHARED
from repurpose_hpc.runtime.exchange import Sharing, deactivate_empty
from repurpose_hpc.runtime.hosting import Hosting
from repurpose_hpc.runtime.local import ENDING, LocalStep
from repurpose_hpc.runtime.messages import Carrier
from repurpose_hpc.runtime.mixings import EXACTLY, Formats, MixingStep
from repurpose_hpc.runtime.tape import Tape, taped
from repurpose_hpc.runtime.transfers import GhostTransfer


class Schedule(NamedTuple):
    """Everything that happens for one batch size.

    Attributes:
        inputs: rows of the input, and where they go.
        steps: what is done then.
        outputs: the output tensors, each (neurons, batch, values).
        carriers: of its exchanges.
    """

    inputs: list[tuple[slice, np.ndarray]]
    steps: list[Call | Tape]
    outputs: list[np.ndarray]
    carriers: list[Carrier]


class Program:
    """A rank's part of a restructured network: the hosted workers' steps over local arrays.

    Memory is allocated at construction, for ``max_batch`` samples.  For each batch size that
    occurs, the steps become one list of calls on views of that memory, made once.

    Attributes:
        input_columns: values of a sample (columns of the input file) that this rank must supply, in
            this order; two workers' common columns of a replicated input occur twice; int64.
        output_columns: values of the outputs that this rank computes, in this order; int64.
        dtype: of weights, inputs and outputs.
        values_sent: values per sample that this rank hands to MPI in one forward.
        bytes_sent: what these take.
        messages: messages that it sends in one forward: other ranks with a non-zero count, summed
            over the exchanges.
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
    ) -> None:
        """Collective over ``comm``.

        Args:
            shards: those of the workers that this rank hosts (``hosted_workers``), ascending.  Their
                ``blocks`` are taken over: they are gone afterwards, so that no weights are held twice.
            comm: its ranks host all workers; COMM_SELF for a single process.
            max_batch: most samples that one ``forward`` takes.
            formats: of weights and ghosts.
            way: how exchanges are carried, one of ``CARRIERS``.

        Raises:
            UserError: there are more ranks than workers.
            ValueError: ``shards`` are those of other workers.
        """
        graph = shards[0].graph
        self._comm, self._max_batch, self._graph, self._formats = comm, max_batch, graph, formats
        self._hosting = Hosting(shards, comm.size, comm.rank)
        self.input_columns = self._columns(graph.input_tensors)
        self.output_columns = self._columns(graph.output_tensors)
        self.dtype = next(iter(shards[0].blocks.values())).bias.dtype
        self._tensors = {tensor: self._buffer(tensor) for tensor in graph.input_tensors}
        self._ghosts: dict[str, GhostTransfer] = {}
        self._scratch = Scratch(self.dtype)
        self._steps = self._make_steps(shards)
        self._schedules: dict[int, Schedule] = {}
        self._way, self._sharing = way, None

        self._mixings = [step for step in self._steps if isinstance(step, MixingStep)]
        self._exchanges = exchanges = [each for mixing in self._mixings for each in mixing.exchanges]
        deactivate_empty(exchanges, comm)
        self.values_sent = sum(exchange.values_sent for exchange in exchanges)
        self.messages = sum(exchange.messages for exchange in exchanges)
        self.bytes_sent = sum(exchange.bytes_sent for exchange in exchanges)
        self.blocks = [entry for mixing in self._mixings for entry in mixing.described]
        self.reset_seconds()

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
        schedule = self._schedules[batch]
        for rows, target in schedule.inputs:
            np.copyto(target, X[rows].reshape(target.shape))
        for step in schedule.steps:
            if isinstance(step, Tape):
                step.play(self._seconds)
            else:
                self._call(*step)
        return _flat(schedule.outputs)

    def _call(self, phase: str, function: Callable[..., object], arguments: tuple) -> None:
        began = perf_counter()
        function(*arguments)
        self._seconds[PHASES.index(phase)] += perf_counter() - began

    @property
    def seconds(self) -> dict[str, float]:
        """Accumulated since ``reset_seconds``: "pack" (moving rows), "exchange" (posting), "wait" (for other
        ranks) and "compute"."""
        return dict(zip(PHASES, self._seconds.tolist(), strict=True))

    @property
    def way(self) -> str:
        """How exchanges are carried; may be changed between forwards, by all ranks together."""
        return self._way

    @way.setter
    def way(self, way: str) -> None:
        self.free()
        self._way = way

    def free(self) -> None:
        """Give back what MPI keeps for the batch sizes so far; collective."""
        for schedule in self._schedules.values():
            for carrier in schedule.carriers:
                carrier.free()
        self._schedules = {}
        if self._sharing:
            self._sharing.free()
            self._sharing = None

    def reset_seconds(self) -> None:
        """Forget the time spent so far."""
        self._seconds = np.zeros(len(PHASES))

    def _columns(self, tensors: Sequence[str]) -> np.ndarray:
        """The places, among the values of all ``tensors``, of those that this rank holds."""
        columns, first = [np.empty(0, np.int64)], 0
        for tensor in tensors:
            values = self._graph.values(tensor)
            neurons = self._hosting.neurons(self._graph.space_of[tensor])
            columns.append(first + (neurons[:, None] * values + np.arange(values)).ravel())
            first += self._graph.size(tensor)
        return np.concatenate(columns)

    def _buffer(self, tensor: str) -> Buffer:
        rows = self._hosting.neurons(self._graph.space_of[tensor]).size
        return Buffer(rows, self._max_batch, self.dtype, self._graph.values(tensor))

    def _make_steps(self, shards: Sequence[Shard]) -> list[MixingStep | LocalStep]:
        """The steps in order; an activation that alone reads an operation's target becomes part of it."""
        steps: list[MixingStep | LocalStep] = []
        fused = _fused_activations(self._graph)
        for op in self._graph.operations:
            if op in fused.values():
                continue
            activation = fused.get(op.target)
            target = activation.target if activation else op.target
            epilogue = epilogue_of(activation.activation if activation else IDENTITY)
            self._tensors[target] = self._buffer(target)
            make = self._mixing_step if isinstance(op, Mixing) else self._local_step
            steps.append(make(op, shards, target, epilogue))
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
            self._hosting,
            self._comm,
            self._max_batch,
            epilogue,
            self._ghosts.get(op.source),
            self._scratch,
            self._formats,
        )
        self._ghosts[op.source] = step.ghosts
        return step

    def _local_step(
        self, op: Operation, shards: Sequence[Shard], target: str, epilogue: Epilogue
    ) -> LocalStep:
        sources = [self._tensors[source] for source in op.sources]
        spaces = [self._graph.space(tensor) for tensor in (*op.sources, op.target)]
        return LocalStep(op, sources, self._tensors[target], spaces, self._hosting, epilogue)

    def _schedule(self, batch: int) -> Schedule:
        if not 0 < batch <= self._max_batch:
            raise ValueError(f"expected 1 to {self._max_batch} samples, found {batch}")
        if self._way == SHARED and not self._sharing:
            self._sharing = Sharing(self._exchanges, self._comm)
        carried = {step: step.carriers(batch, self._way) for step in self._mixings}
        carriers = [carrier for each in carried.values() for carrier in each]
        calls = [call for carrier in carriers for call in carrier.begin]
        for step in self._steps:
            calls += step.calls(batch, carried[step]) if step in carried else step.calls(batch)
        inputs, outputs = (
            [self._tensors[tensor].maps(batch) for tensor in tensors]
            for tensors in (self._graph.input_tensors, self._graph.output_tensors)
        )
        stored = code_dtype(self._formats.weights, self.dtype)
        return Schedule(_places(inputs), taped(calls, self.dtype, stored), outputs, carriers)


def one_process(network: Network, dtype: np.dtype, max_batch: int, formats: Formats = EXACTLY) -> Program:
    """The program of a single process that has all of a network: what ranks are compared with."""
    shard = make_shard(network, single_worker_plan(network), 0, dtype.type)
    return Program([shard], MPI.COMM_SELF, max_batch, formats)


def _places(inputs: list[np.ndarray]) -> list[tuple[slice, np.ndarray]]:
    """Where samples (columns, batch) go in input tensors, each (neurons, batch, values)."""
    places, first = [], 0
    for tensor in inputs:
        neurons, batch, values = tensor.shape
        rows = slice(first, first + neurons * values)
        # One value per neuron: the tensor is as the samples are.
        places.append((rows, tensor[:, :, 0] if values == 1 else tensor.transpose(0, 2, 1)))
        first = rows.stop
    return places


def _flat(outputs: list[np.ndarray]) -> np.ndarray:
    """Output tensors, each (neurons, batch, values), as (columns, batch); a single vector is not copied."""
    if len(outputs) == 1 and outputs[0].shape[2] == 1:
        return outputs[0][:, :, 0]
    batch = outputs[0].shape[1]
    rows = [tensor.transpose(0, 2, 1).reshape(-1, batch) for tensor in outputs]
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def _fused_activations(graph: Network) -> dict[str, Elementwise]:
    """By the target of an operation that can end with an activation: the one that is its only reader."""
    read = [source for op in graph.operations for source in op.sources]
    made = {op.target for op in graph.operations if isinstance(op, ENDING)} - {*graph.output_tensors}
    return {
        op.source: op
        for op in graph.operations
        if isinstance(op, Elementwise) and op.source in made and read.count(op.source) == 1
    }
