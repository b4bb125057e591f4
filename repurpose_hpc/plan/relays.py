"""Relays: neurons that combine the neurons of a worker linearly, so that one value of them crosses for many.

A relay of a mixing is computed by the worker whose neurons it combines, its owner, and is sent to one worker.
In the network that runs, relays are neurons like others.  A mixing ``target = W source + b`` with relays is
four operations:

    relays    = C source              every row from neurons of one worker, so that nothing crosses for it
    directly  = W source + b          with the ghosts and sums that the mixing has besides
    by relays = U relays              relays travel as ghosts
    target    = directly + by relays

On maps a relay is a map.  Either it combines those of the source position by position, and the receiver reads
it with a kernel as it would read the source; or it is made by a kernel, and the receiver reads it position by
position.  The one stands *before* the window of the mixing, the other *behind* it.

So the masks of this network are all that is exchanged.  ``Plan.relays`` says which mixings read relays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.network import Network, Space
from repurpose_hpc.model.operations import Combine, Mixing, Operation
from repurpose_hpc.model.operations.window import pointwise
from repurpose_hpc.model.weights import Weights, compact, dense
from repurpose_hpc.plan.masks import MixingPlan, ghost_plan
from repurpose_hpc.plan.plan import Plan


@dataclass(frozen=True, eq=False)
class Relays:
    """The relays of a mixing.

    Attributes:
        sender: the worker that owns each, (r,) int32.
        receiver: the worker that each is sent to, (r,) int32.
        combined: C, zero but for neurons of the sender: (r, n) of relays before the window of the mixing,
            (r, n k) of those behind it.
        weights: U, zero but for neurons of the receiver: (m, r k) of relays before the window, (m, r) of
            those behind it.
        scales: of each in int8, (r,) float32.
        outliers: those that travel as float16 in a scaled format, (r,) bool.
    """

    sender: np.ndarray
    receiver: np.ndarray
    combined: np.ndarray
    weights: np.ndarray
    scales: np.ndarray
    outliers: np.ndarray

    def __len__(self) -> int:
        return len(self.sender)

    @property
    def taps(self) -> int:
        """Weights for each pair of a row and a relay."""
        return self.weights.shape[1] // len(self)

    @property
    def columns(self) -> np.ndarray:
        """What the columns of ``weights`` combine of those of the mixing, (r, n k) or (r k, n k)."""
        return columns_of(self.combined, self.taps)

    def shaped_as(self, mixing: Mixing) -> str:
        """The tensor of their mixing whose maps have the shape of theirs."""
        return mixing.source if self.taps > 1 else mixing.target

    def product(self) -> np.ndarray:
        """The weights that the relays stand for, (m, n k)."""
        return self.weights @ self.columns

    @property
    def weight_count(self) -> int:
        """Weights that they take beyond those of the mixing that computes what they stand for."""
        dense = np.count_nonzero(self.product())
        return int(np.count_nonzero(self.combined) + np.count_nonzero(self.weights) - dense)

    def ghosts(self, workers: int) -> np.ndarray:
        """Who reads which relay, bool (P, r)."""
        return self.receiver == np.arange(workers)[:, None]

    def without_rows(self, removed: np.ndarray) -> Relays:
        """The relays that rows other than these, bool (m,), read; these read none of them."""
        weights = np.where(removed[:, None], 0.0, self.weights)
        read = weights.reshape(len(weights), len(self), -1).any(axis=(0, 2))
        return Relays(
            sender=self.sender[read],
            receiver=self.receiver[read],
            combined=self.combined[read],
            weights=weights[:, read.repeat(self.taps)],
            scales=self.scales[read],
            outliers=self.outliers[read],
        )


def columns_of(C: np.ndarray, taps: int) -> np.ndarray:
    """Combinations of columns, (r k, n k): C, (r, n), for each of ``taps`` entries of a kernel by itself."""
    return np.kron(C, np.eye(taps, dtype=C.dtype))


def making(mixing: Mixing, relays: Relays, name: str) -> Mixing:
    """The mixing ``name`` that makes the relays of ``mixing``."""
    dtype = mixing.W.dtype
    return replace(
        mixing,
        name=name,
        target=name,
        weights=relays.combined.astype(dtype),
        bias=np.zeros(len(relays), dtype),
        window=pointwise(mixing.window.positions) if mixing.window and relays.taps > 1 else mixing.window,
    )


def reading(mixing: Mixing, relays: Relays, source: str, name: str) -> Mixing:
    """The mixing ``name`` by which ``mixing`` reads its relays."""
    return replace(
        mixing,
        name=name,
        source=source,
        target=name,
        weights=relays.weights.astype(mixing.W.dtype),
        bias=np.zeros_like(mixing.bias),
        window=pointwise(mixing.window.out) if mixing.window and relays.taps == 1 else mixing.window,
    )


class _Names:
    """Names of what relays add to a mixing, none of which its network has."""

    def __init__(self, network: Network, mixing: Mixing) -> None:
        taken = {*network.space_of, *(space.name for space in network.spaces)}
        taken |= {op.name for op in network.operations}
        prefix = mixing.name
        while any(f"{prefix} {what}" in taken for what in ("relays", "directly", "by relays", "together")):
            prefix += "'"
        self.relays, self.directly = f"{prefix} relays", f"{prefix} directly"
        self.by_relays, self.together = f"{prefix} by relays", f"{prefix} together"


def with_relays(network: Network, plan: Plan, relays: Mapping[str, Relays]) -> tuple[Network, Plan]:
    """The network in which relays are neurons, and its plan.

    Args:
        network: whose mixings with relays compute with W + U C.
        plan: for it, without relays.
        relays: mixing -> its relays.
    """
    for mixing in network.mixings:
        if mixing.name in relays:
            network, plan = _with_relays_of(mixing, relays[mixing.name], network, plan)
    return network, plan


def _with_relays_of(mixing: Mixing, relays: Relays, network: Network, plan: Plan) -> tuple[Network, Plan]:
    names, dtype = _Names(network, mixing), mixing.W.dtype
    allowed = plan.allowed(network, mixing).repeat(mixing.taps, axis=1)
    operations: dict[str, list[Operation]] = {op.name: [op] for op in network.operations}
    operations[mixing.name] = [
        making(mixing, relays, names.relays),
        replace(mixing, target=names.directly, weights=np.where(allowed, mixing.W, dtype.type(0))),
        reading(mixing, relays, names.relays, names.by_relays),
        Combine(names.together, (names.directly, names.by_relays), mixing.target, "add"),
    ]
    own, free = network.space_of[mixing.target], len(network.free_spaces)
    positions = network.positions_of
    new_network = replace(
        network,
        # Derived spaces stay last.
        spaces=(*network.spaces[:free], Space(names.relays, len(relays)), *network.spaces[free:]),
        operations=tuple(op for group in operations.values() for op in group),
        space_of=network.space_of | {names.relays: names.relays, names.directly: own, names.by_relays: own},
        positions_of=positions
        | {names.relays: positions[relays.shaped_as(mixing)]}
        | dict.fromkeys((names.directly, names.by_relays), positions[mixing.target]),
    )
    source, target = plan.ends(network, mixing)
    nobody = np.zeros((plan.workers, source.size), bool)
    new_plans: dict[str, MixingPlan] = {
        names.relays: ghost_plan(nobody, source, relays.sender),
        names.by_relays: ghost_plan(relays.ghosts(plan.workers), relays.sender, target),
    }
    outliers = {names.relays: relays.outliers} if relays.outliers.any() else {}
    new_plan = replace(
        plan,
        owners={**plan.owners, names.relays: relays.sender},
        mixings={**plan.mixings, **new_plans},
        scales={**plan.scales, names.relays: relays.scales} if plan.has_scales else plan.scales,
        relays={**plan.relays, mixing.name: names.by_relays},
        outliers={**plan.outliers, **outliers},
    )
    return new_network, new_plan


class RelayLoads(NamedTuple):
    """Multiply-adds of a sample for the relays of a mixing.

    Attributes:
        workers: of each worker, which makes relays and reads some, (P,) int64.
        rows: with which the owner of each row reads them, part of these, (m,) int64.
    """

    workers: np.ndarray
    rows: np.ndarray


def relay_loads(network: Network, plan: Plan, mixing: Mixing, relays: Relays | None) -> RelayLoads:
    """Count what relays take if every row of their receivers reads them.

    Args:
        network, plan: without relays.
        mixing: that the relays are of.
        relays: whose weights may not be known yet; None: there are none.
    """
    owner, workers = plan.owner(network, mixing.target), np.zeros(plan.workers, np.int64)
    if relays is None:
        return RelayLoads(workers, np.zeros(owner.size, np.int64))
    makes = making(mixing, relays, "relays")
    computed = ~plan.removed_neurons(network)[network.space_of[mixing.target]]
    reads = (owner[:, None] == relays.receiver) & computed[:, None]
    rows = reads.sum(axis=1) * relays.taps * network.values(mixing.target)
    np.add.at(workers, owner, rows)
    of_relays = makes.links.sum(axis=1) * makes.taps * network.values(relays.shaped_as(mixing))
    np.add.at(workers, relays.sender, of_relays)
    return RelayLoads(workers, rows)


class RelayCount(NamedTuple):
    """The relays of a mixing from one worker to another.

    Attributes:
        mixing: its name.
        sender, receiver: the workers.
        relays: how many.
        values: that they take per sample.
    """

    mixing: str
    sender: int
    receiver: int
    relays: int
    values: int


def relay_counts(network: Network, plan: Plan) -> Iterator[RelayCount]:
    """Count the relays of a network by mixing, in its order, and by pair of workers."""
    by_name = {mixing.name: mixing for mixing in network.mixings}
    for name, reader in ((name, by_name[plan.relays[name]]) for name in by_name if name in plan.relays):
        traffic, values = plan.ghost_traffic(network, reader), network.values(reader.source)
        for p, q in np.argwhere(traffic).tolist():
            yield RelayCount(name, p, q, int(traffic[p, q]) // values, int(traffic[p, q]))


def mixings_of_original(network: Network, plan: Plan) -> list[Mixing]:
    """The mixings of a network that compute no relays, read none, and are no copies of others, in order."""
    readers = {*plan.relays.values()}
    relays = {mixing.source for mixing in network.mixings if mixing.name in readers}
    added = readers | plan.copies.keys()
    return [m for m in network.mixings if m.name not in added and m.target not in relays]


def without_relays(network: Network, plan: Plan) -> Network:
    """The network without relays that computes the same, of the graph of the original."""
    by_name = {mixing.name: mixing for mixing in network.mixings}
    added: set[str] = set()
    mixings: dict[str, Mixing] = {}
    for name, reader in plan.relays.items():
        directly, by_relays = by_name[name], by_name[reader]
        relays = next(mixing for mixing in network.mixings if mixing.target == by_relays.source)
        together = next(op for op in network.operations if by_relays.target in op.sources)
        made, read = dense(relays.weights), dense(by_relays.weights)
        weights: Weights = dense(directly.weights) + read @ columns_of(made, read.shape[1] // len(made))
        if directly.is_sparse:
            weights = compact(weights)
        mixings[name] = replace(directly, target=together.target, weights=weights)
        added |= {relays.name, by_relays.name, together.name}
    operations = tuple(mixings.get(op.name, op) for op in network.operations if op.name not in added)
    tensors = {*network.input_tensors, *(op.target for op in operations)}
    relay_spaces = {by_name[reader].source for reader in plan.relays.values()}
    return replace(
        network,
        spaces=tuple(space for space in network.spaces if space.name not in relay_spaces),
        operations=operations,
        space_of={tensor: space for tensor, space in network.space_of.items() if tensor in tensors},
        positions_of={name: shape for name, shape in network.positions_of.items() if name in tensors},
    )
