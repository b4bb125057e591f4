"""The operations of a network whose workers compute in sweeps (``late``), in an order to be executed."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from enum import Enum
from typing import NamedTuple

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Combine, Operation, needed


class Share(Enum):
    """The weights of a mixing that one of its copies has."""

    WHOLE = ""
    INSIDE = "inside"
    BETWEEN = "between"


class Origin(NamedTuple):
    """What an operation is a copy of.

    Attributes:
        op: name of that in the exact network.
        share: of a mixing, which of its weights the copy has.
    """

    op: str
    share: Share


class Swept(NamedTuple):
    """Some sweeps of a network.

    Attributes:
        graph: of them; copies of a mixing have the weights that it has, if any.
        origins: operation -> what it is a copy of, where it is one.
        tensors: tensor -> that of the exact network.
    """

    graph: Network
    origins: Mapping[str, Origin]
    tensors: Mapping[str, str]


def swept(network: Network, cut: Container[str], sweeps: int) -> Swept:
    """Some sweeps, without what their outputs do not depend on.

    Args:
        network: any.
        cut: names of the mixings for which workers exchange.
        sweeps: 1 or more.
    """
    copies = _Copies(network)
    before: dict[str, str] = {}
    for _ in range(sweeps):
        before = _sweep(network, cut, copies, before)
    outputs = tuple(before[tensor] for tensor in network.output_tensors)
    operations = needed(copies.operations, outputs)
    tensors = {name: copies.tensors[name] for name in network.input_tensors}
    tensors |= {op.target: copies.tensors[op.target] for op in operations}
    renamed = dict(zip(network.output_tensors, outputs, strict=True))
    graph = replace(
        network,
        operations=operations,
        space_of={name: network.space_of[exact] for name, exact in tensors.items()},
        positions_of={name: network.positions_of[exact] for name, exact in tensors.items()},
        output_tensors=outputs,
        neuron_axes={renamed.get(name, name): axis for name, axis in network.neuron_axes.items()},
    )
    origins = {op.name: copies.origins[op.name] for op in operations if op.name in copies.origins}
    return Swept(graph, origins, tensors)


def _sweep(
    network: Network, cut: Container[str], copies: _Copies, before: Mapping[str, str]
) -> dict[str, str]:
    """Tensors of the exact network -> what they are after a sweep.

    Args:
        network, cut: see ``swept``.
        copies: gets the operations that are new.
        before: what they were after the last sweep; empty in the first.
    """
    now = {tensor: tensor for tensor in network.input_tensors}
    for op in network.operations:
        sources = tuple(now[source] for source in op.sources)
        if op.name not in cut:
            now[op.target] = copies.made(op, sources)
            continue
        now[op.target] = copies.made(op, sources, Share.INSIDE)
        if before:
            of_others = tuple(before[source] for source in op.sources)
            between = copies.made(op, of_others, Share.BETWEEN)
            now[op.target] = copies.summed(op, now[op.target], between)
    return now


class _Copies:
    """Copies of operations; what reads the same is made once.

    Attributes:
        origins, tensors: see ``Swept``.
    """

    def __init__(self, network: Network) -> None:
        self.origins: dict[str, Origin] = {}
        self.tensors = {tensor: tensor for tensor in network.input_tensors}
        self._made: dict[tuple[str, str, tuple[str, ...]], Operation] = {}
        self._counts: dict[tuple[str, str], int] = {}

    @property
    def operations(self) -> list[Operation]:
        """All of them, in the order in which they were made."""
        return [*self._made.values()]

    def made(self, op: Operation, sources: tuple[str, ...], share: Share = Share.WHOLE) -> str:
        """The target of a copy that reads ``sources``."""
        key = op.name, share.value, sources
        if key not in self._made:
            name, target = (self._new(each, share.value) for each in (op.name, op.target))
            self._made[key] = op.between(name, sources, target)
            self.origins[name], self.tensors[target] = Origin(op.name, share), op.target
        return self._made[key].target

    def summed(self, op: Operation, inside: str, between: str) -> str:
        """The target of a mixing, from its parts."""
        key = op.name, "sum", (inside, between)
        if key not in self._made:
            name, target = (self._new(each, "sum") for each in (op.name, op.target))
            self._made[key] = Combine(name, (inside, between), target, "add")
            self.tensors[target] = op.target
        return self._made[key].target

    def _new(self, name: str, word: str) -> str:
        """A name of its own: the first copy has that of the original."""
        count = self._counts[name, word] = self._counts.get((name, word), 0) + 1
        return name if not word and count == 1 else f"{name} {word} {count}".replace("  ", " ")
