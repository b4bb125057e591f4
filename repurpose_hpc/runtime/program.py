"""A rank's part of a restructured network, ready to run."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from repurpose_hpc.kernels import activate_in_place
from repurpose_hpc.model.activations import IDENTITY
from repurpose_hpc.model.network import Elementwise
from repurpose_hpc.plan.shard import Block, Shard
from repurpose_hpc.runtime.blocks import COMPUTE, PHASES, Call, Epilogue, epilogue_of, weights_kept
from repurpose_hpc.runtime.buffers import Buffer
from repurpose_hpc.runtime.exchange import deactivate_empty
from repurpose_hpc.runtime.hosting import Hosting
from repurpose_hpc.runtime.mixings import MixingStep


class Schedule(NamedTuple):
    """Everything that happens for one batch size: fill ``input``, do ``calls``, read ``output``."""

    input: np.ndarray
    calls: list[Call]
    output: np.ndarray


class ActivationStep:
    """An activation that no mixing applies: it follows the input or another activation."""

    def __init__(self, source: Buffer, target: Buffer, epilogue: Epilogue) -> None:
        self.source, self.target, self.epilogue = source, target, epilogue

    def calls(self, batch: int) -> list[Call]:
        """Copy and activate."""
        X, Y = self.source.view(batch), self.target.view(batch)
        return [(COMPUTE, np.copyto, (Y, X)), (COMPUTE, activate_in_place, (Y, *self.epilogue))]


class Program:
    """A rank's part of a restructured network: the hosted workers' steps over local arrays.

    Memory is allocated at construction, for ``max_batch`` samples.  For each batch size that
    occurs, the steps become one list of calls on views of that memory, made once.

    Attributes:
        input_neurons: input neurons (columns of the input file) that this rank must supply, in
            this order; two workers' common columns of a replicated input occur twice; int64.
        output_neurons: output neurons that this rank computes, in this order; int64.
        dtype: of weights, inputs and outputs.
        values_sent: values per sample that this rank hands to MPI in one forward.
        messages: messages that it sends in one forward: other ranks with a non-zero count, summed
            over the exchanges.
        seconds: accumulated since ``reset_seconds``: "pack" (moving rows), "exchange" (posting),
            "wait" (for other ranks) and "compute".
        blocks: one entry for each mixing and hosted worker: "layer", "worker", "rows" and
            "columns" (own neurons of target and source), "ghosts" (received), "sums" (partial
            sums sent), "weights" (non-zero) and "format" ("dense" or "csr").
    """

    def __init__(self, shards: Sequence[Shard], comm: MPI.Comm, max_batch: int) -> None:
        """Collective over ``comm``.

        Args:
            shards: those of the workers that this rank hosts (``hosted_workers``), ascending.
            comm: its ranks host all workers; COMM_SELF for a single process.
            max_batch: most samples that one ``forward`` takes.

        Raises:
            UserError: there are more ranks than workers.
            ValueError: ``shards`` are those of other workers.
        """
        shard = shards[0]
        self._comm, self._max_batch = comm, max_batch
        self._hosting = Hosting(shards, comm.size, comm.rank)
        self._space_of = shard.space_of
        self.input_neurons = self._hosting.neurons(shard.space_of[shard.input])
        self.output_neurons = self._hosting.neurons(shard.space_of[shard.output])
        self.dtype = next(step.bias.dtype for step in shard.steps if isinstance(step, Block))
        self._tensors = {shard.input: self._buffer(shard.input)}
        self._steps = self._make_steps(shards)
        self._input, self._output = self._tensors[shard.input], self._tensors[shard.output]
        self._schedules: dict[int, Schedule] = {}

        mixings = [step for step in self._steps if isinstance(step, MixingStep)]
        exchanges = [exchange for mixing in mixings for exchange in mixing.exchanges]
        deactivate_empty(exchanges, comm)
        self.values_sent = sum(exchange.values_sent for exchange in exchanges)
        self.messages = sum(exchange.messages for exchange in exchanges)
        self.blocks = [entry for mixing in mixings for entry in _describe(mixing)]
        self.reset_seconds()

    def forward(self, X: np.ndarray) -> np.ndarray:
        """Run one batch; collective, all ranks with the same batch size.

        Args:
            X: (len(input_neurons), batch), ``dtype``, batch <= max_batch.

        Returns:
            (len(output_neurons), batch), valid until the next forward; the head is not applied.
        """
        batch = X.shape[1]
        if batch not in self._schedules:
            self._schedules[batch] = self._schedule(batch)
        schedule, seconds = self._schedules[batch], self.seconds
        if X.shape != schedule.input.shape:
            raise ValueError(f"expected inputs of shape {schedule.input.shape}, found {X.shape}")
        began = perf_counter()
        np.copyto(schedule.input, X)
        for phase, function, arguments in schedule.calls:
            function(*arguments)
            ended = perf_counter()
            seconds[phase] += ended - began
            began = ended
        return schedule.output

    def reset_seconds(self) -> None:
        """Forget the time spent so far."""
        self.seconds = dict.fromkeys(PHASES, 0.0)

    def _buffer(self, tensor: str) -> Buffer:
        return Buffer(self._hosting.neurons(self._space_of[tensor]).size, self._max_batch, self.dtype)

    def _make_steps(self, shards: Sequence[Shard]) -> list[MixingStep | ActivationStep]:
        """The steps in order; an activation that alone reads a mixing's target becomes part of it."""
        steps: list[MixingStep | ActivationStep] = []
        fused = _fused_activations(shards[0])
        for parts in zip(*(shard.steps for shard in shards), strict=True):
            if isinstance(parts[0], Block):
                steps.append(self._mixing_step(parts, fused.get(parts[0].target)))
            elif parts[0] not in fused.values():
                steps.append(self._activation_step(parts[0]))
        return steps

    def _mixing_step(self, blocks: Sequence[Block], activation: Elementwise | None) -> MixingStep:
        target = activation.target if activation else blocks[0].target
        self._tensors[target] = self._buffer(target)
        return MixingStep(
            blocks,
            self._tensors[blocks[0].source],
            self._tensors[target],
            self._hosting,
            self._comm,
            self._max_batch,
            epilogue_of(activation.activation if activation else IDENTITY),
        )

    def _activation_step(self, op: Elementwise) -> ActivationStep:
        self._tensors[op.target] = self._buffer(op.target)
        return ActivationStep(self._tensors[op.source], self._tensors[op.target], epilogue_of(op.activation))

    def _schedule(self, batch: int) -> Schedule:
        if not 0 < batch <= self._max_batch:
            raise ValueError(f"expected 1 to {self._max_batch} samples, found {batch}")
        calls = [call for step in self._steps for call in step.calls(batch)]
        return Schedule(self._input.view(batch), calls, self._output.view(batch))


def _fused_activations(shard: Shard) -> dict[str, Elementwise]:
    """By the target of a mixing: the activation that is its only reader."""
    read = [step.source for step in shard.steps]
    made = {step.target for step in shard.steps if isinstance(step, Block) and step.target != shard.output}
    return {
        step.source: step
        for step in shard.steps
        if isinstance(step, Elementwise) and step.source in made and read.count(step.source) == 1
    }


def _describe(mixing: MixingStep) -> list[dict]:
    """The entries of ``Program.blocks`` for one mixing."""
    return [
        {
            "layer": block.name,
            "worker": worker,
            "rows": block.own_weights.shape[0],
            "columns": block.own_weights.shape[1],
            "ghosts": block.ghosts.received.size,
            "sums": block.sums.sent.size,
            "weights": weights_kept(block),
            "format": product.format,
        }
        for worker, block, product in zip(mixing.hosting.workers, mixing.blocks, mixing.products, strict=True)
    ]
