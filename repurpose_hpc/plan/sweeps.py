"""The operations of a network whose workers compute in sweeps (``late``), in an order to be executed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from enum import Enum
from typing import NamedTuple

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Combine, Operation, needed


class Share(Enum):
    """The weights of a mixing that one of its copies has: all, or those inside workers or between them.

    ALONE: those inside, where there is nothing between them to be added, if such copies are kept apart.
    """

    WHOLE = ""
    ALONE = "alone"
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
        graph: of them; copies of a mixing have the weights that it has, if any.  The last copy of a tensor or
            an operation has the name that this has in the exact network.
        origins: operation -> what it is a copy of, where it is one.
        tensors: tensor -> that of the exact network.
    """

    graph: Network
    origins: Mapping[str, Origin]
    tensors: Mapping[str, str]


def swept(network: Network, cut: Container[str], sweeps: int, apart: bool = False) -> Swept:
    """Some sweeps, without what their outputs do not depend on.

    Args:
        network: any.
        cut: names of the mixings for which workers exchange.
        sweeps: 1 or more.
        apart: keep copies apart that read the same and to which something else is added, so that each can
            have weights of its own.
    """
    copies = _Copies(network)
    before: dict[str, str] = {}
    for _ in range(sweeps):
        before = _sweep(network, cut, copies, before, apart)
    operations = needed(copies.operations, [before[tensor] for tensor in network.output_tensors])
    tensors = {name: name for name in network.input_tensors}
    last = {copy: exact for exact, copy in before.items()}
    tensors |= {last.get(op.target, op.target): copies.tensors[op.target] for op in operations}
    last |= {name: exact for exact, name in copies.last(operations).items()}
    origins = {
        last.get(op.name, op.name): copies.origins[op.name] for op in operations if op.name in copies.origins
    }
    operations = tuple(_renamed(op, last) for op in operations)
    graph = replace(
        network,
        operations=operations,
        space_of={name: network.space_of[exact] for name, exact in tensors.items()},
        positions_of={name: network.positions_of[exact] for name, exact in tensors.items()},
    )
    return Swept(graph, origins, tensors)


def _renamed(op: Operation, names: Mapping[str, str]) -> Operation:
    """The operation with other names, for itself and its tensors, where ``names`` has them."""
    name, *tensors = (names.get(old, old) for old in (op.name, *op.sources, op.target))
    return op.between(name, tuple(tensors[:-1]), tensors[-1])


def _sweep(
    network: Network, cut: Container[str], copies: _Copies, before: Mapping[str, str], apart: bool
) -> dict[str, str]:
    """Tensors of the exact network -> what they are after a sweep.

    Args:
        network, cut, apart: see ``swept``.
        copies: gets the operations that are new.
        before: what they were after the last sweep; empty in the first.
    """
    now = {tensor: tensor for tensor in network.input_tensors}
    for op in network.operations:
        sources = tuple(now[source] for source in op.sources)
        if op.name not in cut:
            now[op.target] = copies.made(op, sources)
            continue
        if not before:
            now[op.target] = copies.made(op, sources, Share.ALONE if apart else Share.INSIDE)
            continue
        of_others = tuple(before[source] for source in op.sources)
        inside = copies.made(op, sources, Share.INSIDE, of_others if apart else ())
        between = copies.made(op, of_others, Share.BETWEEN)
        now[op.target] = copies.summed(op, inside, between)
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
        self._taken = {*network.space_of, *(op.name for op in network.operations)}

    @property
    def operations(self) -> list[Operation]:
        """All of them, in the order in which they were made."""
        return [*self._made.values()]

    def last(self, operations: Iterable[Operation]) -> dict[str, str]:
        """Operation of the network -> the last of its copies, of these and but for what is added to it."""
        origins = ((self.origins.get(op.name), op.name) for op in operations)
        return {origin.op: name for origin, name in origins if origin and origin.share is not Share.BETWEEN}

    def made(
        self,
        op: Operation,
        sources: tuple[str, ...],
        share: Share = Share.WHOLE,
        others: tuple[str, ...] = (),
    ) -> str:
        """The target of a copy that reads ``sources``; what is added to it may read ``others``."""
        key = op.name, share.value, sources + others
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
        """A name that nothing has, of the network either: the last copy gets that."""
        while True:
            count = self._counts[name, word] = self._counts.get((name, word), 0) + 1
            new = " ".join(part for part in (name, word, str(count)) if part)
            if new not in self._taken:
                self._taken.add(new)
                return new
