"""The steps of a program, from the operations of its network and the shards of its workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from repurpose_hpc.model.activations import IDENTITY
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.normalisations import Normalisation
from repurpose_hpc.model.operations import Elementwise, Mixing, Operation, Stitch
from repurpose_hpc.plan.shard import Shard
from repurpose_hpc.runtime.buffers import Buffer
from repurpose_hpc.runtime.exchange.transfers import GhostTransfer
from repurpose_hpc.runtime.lowering.blocks import Epilogue, epilogue_of
from repurpose_hpc.runtime.lowering.local import ENDING, LocalStep, StitchStep
from repurpose_hpc.runtime.lowering.mixings import CommonMixingStep, MixingStep, Tensor
from repurpose_hpc.runtime.lowering.normalisation import (
    Group,
    NormalisationStep,
    local_normalisations,
)
from repurpose_hpc.runtime.resources import Resources

if TYPE_CHECKING:
    from mpi4py import MPI

Step = MixingStep | LocalStep | NormalisationStep


class LoweredOperation(NamedTuple):
    """A step, and the tensors that it reads and makes."""

    sources: tuple[str, ...]
    target: str
    step: Step


class Lowering:
    """The steps of a network on a rank, and the memory of its tensors.

    Attributes:
        operations: in order; an activation that alone reads the target of another is part of that one, and
            a normalisation that needs no exchange is one.
        tensors: the memory of each tensor that is computed or given.
    """

    def __init__(self, shards: Sequence[Shard], resources: Resources, comm: MPI.Comm | None = None) -> None:
        """Allocates memory and packs weights, mixing after mixing; collective."""
        self._shards, self._resources, self._graph = shards, resources, shards[0].graph
        self._ghosts: dict[str, GhostTransfer] = {}
        self._mixings: dict[str, MixingStep] = {}
        self.tensors = {tensor: self._buffer(tensor) for tensor in self._graph.input_tensors}
        fused = _fused_activations(self._graph)
        parts_of_others = {activation.name for activation in fused.values()}
        # Those add up in an order of their own for a batch of one.
        together = [] if resources.deterministic else local_normalisations(shards, comm)
        ends = {normalisation.last.name: (normalisation, groups) for normalisation, groups in together}
        for normalisation, _ in together:
            parts_of_others |= normalisation.operations - {normalisation.last.name}
        self.operations = [
            self._lowered(op, fused.get(op.target), ends.get(op.name))
            for op in self._graph.operations
            if op.name not in parts_of_others
        ]

    def _lowered(
        self,
        op: Operation,
        activation: Elementwise | None,
        together: tuple[Normalisation, list[Group]] | None,
    ) -> LoweredOperation:
        """An operation together with the activation that is part of it.

        ``together``: the normalisation whose last operation it is.
        """
        target = op.target if activation is None else activation.target
        epilogue = epilogue_of(IDENTITY if activation is None else activation.activation)
        self.tensors[target] = self._buffer(target)
        if together is None:
            return LoweredOperation(op.sources, target, self._step(op, target, epilogue))
        normalisation, groups = together
        space, source = self._graph.space_of[target], normalisation.source
        sources, targets = (Tensor(self.tensors[tensor], space) for tensor in (source, target))
        hosting = self._resources.hosting
        step = NormalisationStep(normalisation, groups, (sources, targets), hosting, epilogue)
        return LoweredOperation((source,), target, step)

    def _step(self, op: Operation, target: str, epilogue: Epilogue) -> Step:
        """The step of an operation that ends with an activation."""
        if isinstance(op, Mixing):
            return self._mixing_step(op, target, epilogue)
        sources = [self.tensors[source] for source in op.sources]
        spaces = [self._graph.space(tensor) for tensor in (*op.sources, op.target)]
        rest = sources, self.tensors[target], spaces, self._resources, epilogue
        return StitchStep(op, *rest) if isinstance(op, Stitch) else LocalStep(op, *rest)

    def _mixing_step(self, op: Mixing, target: str, epilogue: Epilogue) -> MixingStep:
        blocks = [shard.blocks[op.name] for shard in self._shards]
        graph, given = self._graph, self._resources.formats.comm_dtype
        source_tensor, target_tensor = (
            Tensor(
                self.tensors[tensor],
                graph.space_of[tensor],
                graph.comm_dtype(tensor, given),
                tensor in graph.event_tensors,
            )
            for tensor in (op.source, target)
        )
        ghosts = self._ghosts.get(op.source)
        make = CommonMixingStep if blocks[0].is_common else MixingStep
        twin = self._mixings.get(self._shards[0].twins.get(op.name, ""))
        step = make(op, blocks, (source_tensor, target_tensor), epilogue, ghosts, self._resources, twin)
        self._ghosts[op.source], self._mixings[op.name] = step.ghosts, step
        return step

    def _buffer(self, tensor: str) -> Buffer:
        rows = self._resources.hosting.neurons(self._graph.space_of[tensor]).size
        return Buffer(
            rows, self._resources.max_batch, self._resources.scratch.dtype, self._graph.values(tensor)
        )


def _fused_activations(graph: Network) -> dict[str, Elementwise]:
    """Activations that operations can end with, by the target of the operation that only they read."""
    read = [source for op in graph.operations for source in op.sources]
    ends = {op.target for op in graph.operations if isinstance(op, ENDING)} - {*graph.output_tensors}
    return {
        op.source: op
        for op in graph.operations
        if isinstance(op, Elementwise) and op.source in ends and read.count(op.source) == 1
    }
