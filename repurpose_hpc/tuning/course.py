"""What a pass goes through: operations between what it begins with and the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing, Operation


class Course(NamedTuple):
    """What a pass goes through.

    Attributes:
        operations: in their order.
        needed: their tensors, and those that it begins with.
        read: those of them that mixings read.
    """

    operations: list[Operation]
    needed: set[str]
    read: set[str]


class Courses:
    """The courses that a network has.

    Args:
        graph: the network.
        operations: its operations, or parts of them with the same ends.
    """

    def __init__(self, graph: Network, operations: Sequence[Operation]) -> None:
        self._graph, self._operations = graph, operations

    def from_tensors(self, starts: Sequence[str] | None) -> Course:
        """What has to run for the outputs if some tensors are there; None: the inputs."""
        starts = self._graph.input_tensors if starts is None else starts
        needed, operations = {*self._graph.output_tensors}, []
        for op in reversed(self._operations):
            if op.target in needed and op.target not in starts:
                operations.append(op)
                needed |= {*op.sources}
        read = {source for op in operations if isinstance(op, Mixing) for source in op.sources}
        return Course(operations[::-1], needed, read)

    def starts_of(self, known: Sequence[str]) -> tuple[str, ...]:
        """What a pass has to begin with if some tensors are known: all inputs or none, and some of these."""
        inputs = self._graph.input_tensors
        needed = self.from_tensors((*inputs, *known)).needed
        return (*(inputs if needed & {*inputs} else ()), *(name for name in known if name in needed))
