"""A plan: who owns every neuron, and who needs what from whom (``masks``).

A tensor that several mixings read is exchanged once, and counted for the first of them: to every
worker go the ghosts that it has for any of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from repurpose_hpc.model.blocks import block_ends
from repurpose_hpc.model.comm_dtype import BITS, EXACT, block_bytes
from repurpose_hpc.model.network import Network, Space
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.model.weights import Weights, entries, kept, scaled
from repurpose_hpc.plan.mapping import FrozenMapping
from repurpose_hpc.plan.masks import (
    EVERYBODY,
    MixingPlan,
    Pairs,
    all_pairs,
    allowed,
    allowed_count,
    common_mixing_plan,
    dense_mixing_plan,
    fetched,
    holders,
    trimmed,
)

PLACEMENTS = REPLICATED, PARTITIONED, ROOT = ("replicated", "partitioned", "root")


@dataclass(frozen=True, eq=False)
class Plan:
    """Owners and interdependency masks of a network; its mappings are copies that cannot be written.

    Attributes:
        workers: P.
        input_placement: one of ``PLACEMENTS``.
        owners: space name -> owner of each neuron, (n,) int32, 0..P-1 (``EVERYBODY``: the
            neurons of a replicated input).
        mixings: mixing name -> its plan.
        scales: source tensor of a mixing -> the scale of each of its neurons in int8 (see
            ``model.comm_dtype``), (n,) float32; empty where they are not known, as without calibration data.
        comm_dtype: the format in which ghosts travel, for which the weights were adjusted: of
            ``model.comm_dtype.COMM_DTYPES``.
        relays: mixing -> the one that reads the relays which it has beside ghosts and sums (``plan.relays``).
        removed: free space -> its neurons that nobody reads, so that nobody computes them either, (n,) bool;
            spaces that keep all of theirs are left out.
        outliers: source tensor of a mixing -> its neurons that travel as float16 where others travel in a
            scaled format (see ``model.comm_dtype``), (n,) bool; tensors without any are left out.
        copies: mixing -> the one of the original that it is a copy of, or a part of a copy; the last copy has
            the name of the original.  Empty unless exchanges are late (``plan.late``).
    """

    workers: int
    input_placement: str
    owners: Mapping[str, np.ndarray]
    mixings: Mapping[str, MixingPlan]
    scales: Mapping[str, np.ndarray] = field(default_factory=dict)
    comm_dtype: str = EXACT
    relays: Mapping[str, str] = field(default_factory=dict)
    removed: Mapping[str, np.ndarray] = field(default_factory=dict)
    outliers: Mapping[str, np.ndarray] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("owners", "mixings", "scales", "relays", "removed", "outliers", "copies"):
            object.__setattr__(self, name, FrozenMapping(getattr(self, name)))

    @property
    def has_scales(self) -> bool:
        """Ghosts can travel in scaled formats."""
        return bool(self.scales)

    def original(self, mixing: Mixing) -> str:
        """Name of the mixing that ``mixing`` is a copy of, or its own."""
        return self.copies.get(mixing.name, mixing.name)

    def owner(self, network: Network, tensor: str) -> np.ndarray:
        """Owners of the neurons of ``tensor``, (n,)."""
        return self.owners[network.space_of[tensor]]

    def removed_neurons(self, network: Network) -> dict[str, np.ndarray]:
        """``removed`` of every space, (n,) bool, derived ones included."""
        nothing = {space.name: np.zeros(space.neurons, bool) for space in network.free_spaces}
        return network.derive(nothing | dict(self.removed))

    def ends(self, network: Network, mixing: Mixing) -> tuple[np.ndarray, np.ndarray]:
        """Owners of the source, (n,), and of the target, (m,), of ``mixing``."""
        return self.owner(network, mixing.source), self.owner(network, mixing.target)

    def is_common(self, network: Network, mixing: Mixing) -> bool:
        """Whether all workers add to neurons of which each has a copy."""
        _, target = self.ends(network, mixing)
        return bool((target == EVERYBODY).all() and self.mixings[mixing.name].sums.any())

    def is_everywhere(self, network: Network, mixing: Mixing) -> bool:
        """Whether every worker computes all rows, from neurons that the others own."""
        source, target = self.ends(network, mixing)
        owned = bool((target == EVERYBODY).all() and (source != EVERYBODY).any())
        return owned and not self.mixings[mixing.name].sums.any()

    def exchanged(self, network: Network, mixing: Mixing) -> np.ndarray:
        """The ghosts whose exchange counts for ``mixing``, bool (P, n).

        If it is the first in the plan to read its source, the ghosts for all mixings that do, else none.
        """
        names = [reader.name for reader in network.mixings if reader.source == mixing.source]
        masks = {name: self.mixings[name].ghosts for name in names if name in self.mixings}
        first = next(iter(masks))
        return np.any([*masks.values()], axis=0) if mixing.name == first else np.zeros_like(masks[first])

    def traffic(self, network: Network, mixing: Mixing) -> np.ndarray:
        """Values per sample that cross and count for ``mixing``: (P, P) int64, [p, q] from p to q."""
        return self.ghost_traffic(network, mixing) + self.sum_traffic(network, mixing)

    def ghost_traffic(self, network: Network, mixing: Mixing) -> np.ndarray:
        """``traffic``, only the ghosts, which their owners send."""
        return network.values(mixing.source) * self._ghost_counts(network, mixing).T

    def ghost_bytes(self, network: Network, mixing: Mixing, comm_dtype: str) -> np.ndarray:
        """Bytes per sample of ``ghost_traffic`` in ``comm_dtype``, EXACT being float32: (P, P) int64."""
        ghosts, wide = self._ghost_counts(network, mixing), self.outliers.get(mixing.source)
        comm_dtype = network.comm_dtype(mixing.source, comm_dtype)
        outliers = np.zeros_like(ghosts) if wide is None else self._ghost_counts(network, mixing, wide)
        return network.values(mixing.source) * block_bytes(ghosts, outliers, comm_dtype).T

    def _ghost_counts(self, network: Network, mixing: Mixing, among: np.ndarray | bool = True) -> np.ndarray:
        """Ghosts that count for ``mixing``, of the neurons ``among``: (P, P) int64, [q, p] from p to q."""
        return _count_by_owner(self.exchanged(network, mixing) & among, self.owner(network, mixing.source))

    def sum_traffic(self, network: Network, mixing: Mixing) -> np.ndarray:
        """``traffic``, only the partial sums, which their owners receive."""
        mask, owner = self.mixings[mixing.name].sums, self.owner(network, mixing.target)
        to_all = mask[:, owner == EVERYBODY].sum(axis=1)[:, None] * (1 - np.eye(len(mask), dtype=np.int64))
        return network.values(mixing.target) * (_count_by_owner(mask, owner) + to_all)

    def values_sent(self, network: Network, mixing: Mixing) -> int:
        """Values per sample that cross and count for ``mixing``, between workers."""
        return int(self.traffic(network, mixing).sum())

    def byte_traffic(self, network: Network, mixing: Mixing, comm_dtype: str) -> np.ndarray:
        """Bytes per sample of ``traffic`` in a run in float32: ghosts in ``comm_dtype``, sums as they are.

        (P, P) int64, [p, q] from p to q.
        """
        sums = self.sum_traffic(network, mixing) * (BITS[EXACT] // 8)
        return self.ghost_bytes(network, mixing, comm_dtype) + sums

    def bytes_sent(self, network: Network, comm_dtype: str) -> int:
        """Bytes per sample that cross in a run in float32: the sum of ``byte_traffic``."""
        return sum(int(self.byte_traffic(network, mixing, comm_dtype).sum()) for mixing in network.mixings)

    def allowed(self, network: Network, mixing: Mixing, pairs: Pairs | None = None) -> np.ndarray:
        """The neurons that may depend on each other, bool; see ``masks.allowed``.

        Args:
            network, mixing: of the plan; also of the methods below.
            pairs: some; None: all, (m, n).
        """
        ends = self.ends(network, mixing)
        pairs = pairs or all_pairs(*ends)
        mask = allowed(self.mixings[mixing.name], *ends, pairs)
        if self.removed:
            removed = self.removed_neurons(network)
            source, target = (removed[network.space_of[end]] for end in (mixing.source, mixing.target))
            mask &= ~source[pairs.columns] & ~target[pairs.rows]
        return mask

    def allowed_weights(self, network: Network, mixing: Mixing) -> Weights:
        """The weights that may be non-zero; all others are zero."""
        return _masked(mixing, partial(self.allowed, network, mixing))

    def allowed_count(self, network: Network, mixing: Mixing) -> int:
        """Number of pairs of neurons that may depend on each other: the area of all blocks."""
        (source, target), removed = self.ends(network, mixing), self.removed_neurons(network)
        columns, rows = (~removed[network.space_of[end]] for end in (mixing.source, mixing.target))
        plan = self.mixings[mixing.name]
        there = MixingPlan(plan.ghosts[:, columns], plan.sums[:, rows])
        return allowed_count(there, source[columns], target[rows])

    def pruned(self, network: Network) -> Network:
        """``network``, in which the weights that the plan does not allow are zero."""
        mixings = {}
        for mixing in network.mixings:
            mixings[mixing.name] = replace(mixing, weights=self.allowed_weights(network, mixing))
        return network.with_mixings(mixings)

    def without_removed(self, network: Network) -> Network:
        """``network``, in which mixings compute nothing for removed neurons."""
        if not self.removed:
            return network
        mixings, removed = {}, self.removed_neurons(network)
        for mixing in network.mixings:
            computed = ~removed[network.space_of[mixing.target]]
            if not computed.all():
                weights, bias = scaled(mixing.weights, computed), mixing.bias * computed
                mixings[mixing.name] = replace(mixing, weights=weights, bias=bias)
        return network.with_mixings(mixings)

    def arriving(self, network: Network, mixing: Mixing, pairs: Pairs | None = None) -> np.ndarray:
        """The pairs whose source neuron arrives as a ghost, rounded to ``comm_dtype``: bool.

        So that all copies of common neurons are the same, the owner takes what it sends as it arrives.
        """
        source, target = self.ends(network, mixing)
        pairs = pairs or all_pairs(source, target)
        is_owned = source[pairs.columns] != EVERYBODY
        if mixing.source in network.binary_tensors:  # they arrive as they are
            return np.zeros_like(is_owned)
        return fetched(self.mixings[mixing.name], source, target, pairs) & is_owned

    def arriving_weights(self, network: Network, mixing: Mixing) -> Weights:
        """The weights that meet what arrives as a ghost; all others are zero."""
        return _masked(mixing, partial(self.arriving, network, mixing))

    def weights_between(self, network: Network, mixing: Mixing, others: bool) -> Weights:
        """The weights between neurons of different workers, or else of one; all others are zero."""
        source, target = self.ends(network, mixing)

        def wanted(pairs: Pairs | None = None) -> np.ndarray:
            pairs = pairs or all_pairs(source, target)
            owner = source[pairs.columns]
            return ((owner == target[pairs.rows]) | (owner == EVERYBODY)) != others

        return _masked(mixing, wanted)

    def holders(self, network: Network, mixing: Mixing, pairs: Pairs | None = None) -> np.ndarray:
        """The worker that holds the weights of each pair; see ``masks.holders``."""
        ends = self.ends(network, mixing)
        return holders(self.mixings[mixing.name], *ends, pairs or all_pairs(*ends))

    def weights_held(self, network: Network) -> np.ndarray:
        """Non-zero weights of a restructured network that each worker holds, (P,) int64."""
        counts = np.zeros(1 + self.workers, np.int64)  # those of EVERYBODY first
        for mixing in network.mixings:
            for rows, columns, _ in entries(mixing.weights):
                held_by = self.holders(network, mixing, Pairs(rows, columns // mixing.taps))
                counts += np.bincount(held_by - EVERYBODY, minlength=counts.size)
        return counts[1:] + counts[0]

    def column_loads(self, network: Network, mixing: Mixing) -> np.ndarray:
        """Multiply-adds of a sample that each worker does with each neuron of the source, (P, n) int64."""
        n = network.space(mixing.source).neurons
        counts = np.zeros((1 + self.workers) * n, np.int64)  # those of EVERYBODY first
        for pairs in self._multiplied(network, mixing):
            held_by = self.holders(network, mixing, pairs)
            counts += np.bincount((held_by - EVERYBODY) * n + pairs.columns, minlength=counts.size)
        by_worker = counts.reshape(1 + self.workers, n)
        return (by_worker[1:] + by_worker[0]) * mixing.taps * network.values(mixing.target)

    def row_loads(self, network: Network, mixing: Mixing) -> np.ndarray:
        """Multiply-adds of a sample that the owner of each neuron of the target does for it, (m,) int64."""
        owner = self.owner(network, mixing.target)
        counts = np.zeros(owner.size, np.int64)
        for pairs in self._multiplied(network, mixing):
            held = self.holders(network, mixing, pairs) == owner[pairs.rows]
            counts += np.bincount(pairs.rows[held], minlength=owner.size)
        return counts * mixing.taps * network.values(mixing.target)

    def _multiplied(self, network: Network, mixing: Mixing) -> Iterator[Pairs]:
        """The neurons that depend on each other, and may; some rows at a time."""
        for rows, columns, _ in entries(mixing.pattern):
            is_allowed = self.allowed(network, mixing, Pairs(rows, columns))
            yield Pairs(rows[is_allowed], columns[is_allowed])

    def multiply_adds(self, network: Network) -> np.ndarray:
        """Multiply-adds of a sample that each worker does, (P,) int64."""
        return np.sum([self.column_loads(network, m).sum(axis=1) for m in network.mixings], axis=0)

    def dense_values(self, network: Network, mixing: Mixing) -> int:
        """``values_sent`` if every neuron of the original were sent to every other worker."""
        if mixing.name in self.relays.values() or mixing.name in self.copies:
            return 0
        if mixing.name in network.tile_parts:
            return network.tile_parts[mixing.name].dense_size * (self.workers - 1)
        readers = (reader for reader in network.mixings if reader.source == mixing.source)
        first = next(reader for reader in readers if reader.name not in self.copies)
        if mixing.name != first.name:
            return 0
        owned = np.count_nonzero(self.owner(network, mixing.source) != EVERYBODY)
        return int(owned) * network.values(mixing.source) * (self.workers - 1)

    def identity(self) -> str:
        """SHA-256 (hex) over all that a plan says: shards of one plan carry it."""
        digest = hashlib.sha256(f"{self.workers} {self.input_placement} {self.comm_dtype}".encode())
        for name, owner in sorted(self.owners.items()):
            digest.update(name.encode() + owner.tobytes())
        for name, mixing in sorted(self.mixings.items()):
            digest.update(name.encode() + mixing.ghosts.tobytes() + mixing.sums.tobytes())
        for tensor, scales in sorted(self.scales.items()):
            digest.update(tensor.encode() + scales.tobytes())
        for name, reader in sorted(self.relays.items()):
            digest.update(f"{name}\n{reader}\n".encode())
        for name, removed in sorted(self.removed.items()):
            digest.update(name.encode() + removed.tobytes())
        for tensor, outliers in sorted(self.outliers.items()):
            digest.update(f"outliers {tensor}".encode() + outliers.tobytes())
        for name, original in sorted(self.copies.items()):
            digest.update(f"copy {name}\n{original}\n".encode())
        return digest.hexdigest()


def _count_by_owner(mask: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Neurons in the mask of each worker, counted by their owners: (P, P) int64, [worker, owner]."""
    owned = owner != EVERYBODY
    counts = np.stack([np.bincount(owner[neurons & owned], minlength=len(mask)) for neurons in mask])
    np.fill_diagonal(counts, 0)
    return counts


def capacities(neurons: int, part_weights: np.ndarray, imbalance: float = 0.0) -> np.ndarray:
    """The most neurons that each worker may own: its share, rounded up, or more by ``imbalance``.

    Args:
        neurons: of the space.
        part_weights: relative capacities, (P,), >= 0, not all 0.
        imbalance: fraction by which a share may be exceeded, >= 0.

    Returns:
        (P,) int64; their sum is at least ``neurons``.
    """
    share = neurons * part_weights / part_weights.sum()
    # A share that is a whole number but for rounding must not be rounded up.
    exact = np.ceil(share - 1e-9 * neurons)
    return np.maximum(exact, np.floor((1 + imbalance) * share + 1e-9 * neurons)).astype(np.int64)


def contiguous_owners(neurons: int, part_weights: np.ndarray) -> np.ndarray:
    """Owner of each neuron when worker q holds block q: (neurons,) int32; blocks follow the weights."""
    ends = block_ends(neurons, part_weights)
    return np.searchsorted(ends, np.arange(neurons), side="right").astype(np.int32)


def input_owners(neurons: int, placement: str, part_weights: np.ndarray) -> np.ndarray:
    """Owners of the input neurons, (neurons,) int32.

    ``replicated``: ``EVERYBODY``; ``partitioned``: worker q holds block q; ``root``: worker 0 holds all.
    """
    if placement == REPLICATED:
        return np.full(neurons, EVERYBODY, np.int32)
    if placement == ROOT:
        return np.zeros(neurons, np.int32)
    return contiguous_owners(neurons, part_weights)


def block_owners(
    network: Network,
    input_placement: str,
    part_weights: np.ndarray,
    within: Mapping[str, np.ndarray] = FrozenMapping({}),
) -> dict[str, np.ndarray]:
    """Owners of the neurons of every space by name: blocks by the weights, the inputs as they are placed.

    Args:
        network: any.
        input_placement: one of ``PLACEMENTS``.
        part_weights: relative capacities of the workers, (P,).
        within: free space -> the workers that share it, bool (P,); all, of other spaces.
    """
    owners = {}
    for space in network.free_spaces:
        if space.name in network.input_spaces:
            owners[space.name] = input_owners(space.neurons, input_placement, part_weights)
        elif space.name in network.tile_owners:
            owners[space.name] = tile_owner(network, space, len(part_weights))
        else:
            weights = part_weights * within.get(space.name, True)
            owners[space.name] = contiguous_owners(space.neurons, weights)
    return network.derive(owners)


def tile_owner(network: Network, space: Space, workers: int) -> np.ndarray:
    """Owner of each neuron of a space that one worker has, (n,) int32; see ``Network.tile_owners``.

    Of fewer workers than tiles, as forecasts ask for, some have several.
    """
    return np.full(space.neurons, network.tile_owners[space.name] % workers, np.int32)


def tile_weights(network: Network, workers: int) -> np.ndarray:
    """Weights that each worker holds of layers that are shared out by position, (P,) int64."""
    held = np.zeros(workers, np.int64)
    for mixing in network.mixings:
        space = network.parts(mixing.target)[0]
        if space in network.tile_owners and not mixing.is_sparse:
            held[network.tile_owners[space]] += mixing.weights.size
    return held


def single_worker_plan(network: Network) -> Plan:
    """The plan in which one worker has everything: the single process that others are compared with."""
    owners = {space.name: np.zeros(space.neurons, np.int32) for space in network.spaces}
    mixings = {}
    for mixing in network.mixings:
        n, m = (network.space(end).neurons for end in (mixing.source, mixing.target))
        mixings[mixing.name] = MixingPlan(np.zeros((1, n), bool), np.zeros((1, m), bool))
    return Plan(1, ROOT, owners, mixings)


def near_owners(network: Network, owners: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Owners as given, but for sums that are part of a definition: a neuron goes where all that it sums is.

    So the mean over a head is with the head.

    Args:
        network: any.
        owners: of every space, by name.
    """
    free = {space.name: owners[space.name].copy() for space in network.free_spaces}
    for mixing in network.mixings:
        space = network.space_of[mixing.target]
        if not mixing.fixed or space not in free or len(mixing.links) != free[space].size:
            continue
        source, links = network.gather(free, mixing.source), mixing.links
        first = source[links.argmax(axis=1)]
        together = (~links | (source == first[:, None])).all() and (first != EVERYBODY).all()
        if together and sum(network.space_of[other.target] == space for other in network.mixings) == 1:
            free[space] = first
    return network.derive(free)


def dense_plan(network: Network, workers: int, input_placement: str, part_weights: np.ndarray) -> Plan:
    """The plan in which nothing is pruned: blocks of neurons, sums where all that read a tensor make less.

    What no weight makes use of (other groups of a grouped convolution) is not sent.
    """
    return dense_plan_for(
        network, workers, input_placement, block_owners(network, input_placement, part_weights)
    )


def dense_plan_for(
    network: Network,
    workers: int,
    input_placement: str,
    owners: dict[str, np.ndarray],
    summed: Collection[str] | None = None,
) -> Plan:
    """``dense_plan`` for other owners of the spaces.

    Args:
        network: any.
        workers: P.
        input_placement: one of ``PLACEMENTS``.
        owners: of every space, by name.
        summed: tensors whose readers send sums; None: those whose readers make less than they read.
    """
    mixings = {}
    for mixing in network.mixings:
        source, target = (owners[network.space_of[tensor]] for tensor in (mixing.source, mixing.target))
        sums = sum(
            network.size(reader.target) for reader in network.mixings if reader.source == mixing.source
        )
        if (target == EVERYBODY).all():
            mixings[mixing.name] = common_mixing_plan(source, target, workers)
            continue
        narrow = sums < network.size(mixing.source) if summed is None else mixing.source in summed
        plan = dense_mixing_plan(source, target, narrow, workers)
        mixings[mixing.name] = trimmed(plan, mixing.pattern, source, target)
    return Plan(workers, input_placement, owners, mixings)


def _masked(mixing: Mixing, mask: Callable[..., np.ndarray]) -> Weights:
    """The weights of the pairs that ``mask`` keeps: of those it is given, or of all if of none."""
    if mixing.is_sparse:
        return kept(mixing.weights, lambda *pairs: mask(Pairs(*pairs)))
    return np.where(mask().repeat(mixing.taps, axis=1), mixing.W, 0)
