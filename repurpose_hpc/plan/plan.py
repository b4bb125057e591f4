"""A plan: who owns every neuron, and who needs what from whom.

*Ghost form.*  ``mask[q, j]``: worker q reads neuron j of the source space (its support S_q).
Every neuron that q reads and does not own is a ghost neuron, sent to q by its owner.

*Partial-sum form.*  ``mask[p, i]``: worker p multiplies its own neurons of the source space
into neuron i of the target space.  Every such sum of a neuron that p does not own is sent
by p to the owner, who adds it.

A mixing that reads a replicated input sends nothing in ghost form, and has that form.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from repurpose_hpc.model.network import Mixing, Network

GHOST = "ghost"
PARTIAL = "partial"
PLACEMENTS = ("replicated", "partitioned", "root")

# The owner of the neurons of a replicated input: every worker reads them by itself.
EVERYBODY = -1


@dataclass(frozen=True, eq=False)
class MixingPlan:
    """How one mixing is spread over the workers.

    Attributes:
        form: ``GHOST`` or ``PARTIAL``.
        mask: bool, (P, n) in ghost form, (P, m) in partial-sum form; see the module.
    """

    form: str
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class Plan:
    """Owners and interdependency masks of a network.

    Attributes:
        workers: P.
        input_placement: one of ``PLACEMENTS``.
        owners: space name -> owner of each neuron, (n,) int32, 0..P-1 (``EVERYBODY``: the
            neurons of a replicated input).
        mixings: mixing name -> its plan.
    """

    workers: int
    input_placement: str
    owners: dict[str, np.ndarray]
    mixings: dict[str, MixingPlan]

    def traffic(self, network: Network, mixing: Mixing) -> np.ndarray:
        """Values per sample that cross for ``mixing``: (P, P) int64, [p, q] from p to q."""
        plan = self.mixings[mixing.name]
        # In ghost form the owner sends to the worker of the mask, in partial-sum form it receives.
        space = network.space(mixing.source if plan.form == GHOST else mixing.target)
        owner = self.owners[space.name]
        values = np.zeros((self.workers, self.workers), np.int64)
        for worker, needed in enumerate(plan.mask):
            others = owner[needed & (owner != EVERYBODY) & (owner != worker)]
            values[:, worker] = space.values * np.bincount(others, minlength=self.workers)
        return values if plan.form == GHOST else values.T

    def values_sent(self, network: Network, mixing: Mixing) -> int:
        """Values per sample that cross for ``mixing``, between workers."""
        return int(self.traffic(network, mixing).sum())

    def dense_values(self, network: Network, mixing: Mixing) -> int:
        """What ``values_sent`` would be if every neuron were sent to every other worker."""
        space = network.space(mixing.source)
        if (self.owners[space.name] == EVERYBODY).all():
            return 0
        return space.neurons * space.values * (self.workers - 1)

    def identity(self) -> str:
        """SHA-256 (hex) over owners and masks: shards of one plan carry it."""
        digest = hashlib.sha256(f"{self.workers} {self.input_placement}".encode())
        for name, owner in self.owners.items():
            digest.update(name.encode() + owner.tobytes())
        for name, mixing in self.mixings.items():
            digest.update(f"{name} {mixing.form}".encode() + mixing.mask.tobytes())
        return digest.hexdigest()


def capacities(neurons: int, part_weights: np.ndarray) -> np.ndarray:
    """How many neurons each worker may own: its share of ``neurons``, rounded up.

    Args:
        neurons: how many there are.
        part_weights: relative capacities, (P,), >= 0, not all 0.

    Returns:
        (P,) int64; their sum is at least ``neurons``.
    """
    share = neurons * part_weights / part_weights.sum()
    # A share that is a whole number but for rounding must not be rounded up.
    return np.ceil(share - 1e-9 * neurons).astype(np.int64)


def contiguous_owners(neurons: int, part_weights: np.ndarray) -> np.ndarray:
    """Owner of each neuron when worker q holds block q: (neurons,) int32; blocks follow the weights."""
    # Halves always round up: rounded to even, a block could exceed its worker's capacity.
    ends = np.floor(neurons * np.cumsum(part_weights) / part_weights.sum() + (0.5 + 1e-9)).astype(np.int64)
    return np.searchsorted(ends, np.arange(neurons), side="right").astype(np.int32)


def input_owners(neurons: int, placement: str, part_weights: np.ndarray) -> np.ndarray:
    """Owners of the input neurons, (neurons,) int32.

    ``replicated``: ``EVERYBODY``; ``partitioned``: worker q holds block q; ``root``: worker 0 holds all.
    """
    if placement == "replicated":
        return np.full(neurons, EVERYBODY, np.int32)
    if placement == "root":
        return np.zeros(neurons, np.int32)
    return contiguous_owners(neurons, part_weights)


def single_worker_plan(network: Network) -> Plan:
    """The plan in which one worker has everything: the single process that others are compared with."""
    owners = {space.name: np.zeros(space.neurons, np.int32) for space in network.spaces}
    mixings = {
        mixing.name: MixingPlan(GHOST, np.ones((1, mixing.weights.shape[1]), bool))
        for mixing in network.mixings
    }
    return Plan(1, "root", owners, mixings)


def dense_plan(network: Network, workers: int, input_placement: str, part_weights: np.ndarray) -> Plan:
    """The plan in which nothing is pruned: blocks of neurons, every mixing in the form that sends less."""
    owners = {space.name: contiguous_owners(space.neurons, part_weights) for space in network.spaces}
    owners[network.space_of[network.input]] = input_owners(network.inputs, input_placement, part_weights)
    mixings = {}
    for mixing in network.mixings:
        source, target = (owners[network.space_of[tensor]] for tensor in (mixing.source, mixing.target))
        mixings[mixing.name] = _dense_mixing_plan(source, target, np.arange(workers))
    return Plan(workers, input_placement, owners, mixings)


def _dense_mixing_plan(source: np.ndarray, target: np.ndarray, workers: np.ndarray) -> MixingPlan:
    """Workers without neurons on the receiving or sending side take no part."""
    if len(target) < len(source) and not (source == EVERYBODY).any():
        return MixingPlan(PARTIAL, np.isin(workers, source)[:, None] | (target == workers[:, None]))
    own = (source == workers[:, None]) | (source == EVERYBODY)
    return MixingPlan(GHOST, np.isin(workers, target)[:, None] | own)
