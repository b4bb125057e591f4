"""One worker's part of a restructured network: its weights and its send and receive lists.

The lists of two workers fit together without a message: what p sends to q and what q
receives from p are the same neurons in the same, ascending, order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.model.weights import Weights, column_numbers, kept, picked
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.plan.plan import Plan


@dataclass(frozen=True, eq=False)
class Lists:
    """Send and receive lists of one worker for a mixing: of ghost neurons, or of partial sums of neurons.

    Attributes:
        sent: neurons sent, ascending for each receiver; int64.
        sent_to: the worker that each is sent to, ascending; int32.
        received: neurons received, ascending for each sender; int64.
        received_from: the worker that each comes from, ascending; int32.
    """

    sent: np.ndarray
    sent_to: np.ndarray
    received: np.ndarray
    received_from: np.ndarray

    @property
    def transposed(self) -> Lists:
        """The lists of the exchange that brings derivatives back: what was sent is received."""
        return Lists(self.received, self.received_from, self.sent, self.sent_to)


@dataclass(frozen=True, eq=False)
class Block:
    """One worker's part of a mixing; m_q and n_q are its own neurons of the two spaces.

    Every neuron of the source stands for k columns (see ``Mixing.weights``).  All weights are stored sparse
    if those of the mixing are.

    Attributes:
        own_weights: (m_q, n_q k), own neurons into own neurons.
        ghost_weights: (m_q, g k), for the ghosts ``ghost_neurons``.
        sum_weights: (sums.sent, n_q k), one row for each partial sum that leaves; zero where the
            receiver has the column as a ghost; none of a mixing into common neurons.
        bias: (m_q,); of a mixing into common neurons worker 0 alone has it.
        ghost_neurons: the ghosts that the worker uses, (g,) int64, by (owner, neuron): of those that came
            for this mixing or for the first that reads the same tensor.
        ghosts: neurons of the source space that travel; those that several mixings read, for the first.
        sums: neurons of the target space of which partial sums travel.
        sent_scales, received_scales: of ``ghosts.sent`` and ``ghosts.received`` in int8, float32; both
            empty where the plan has no scales.
        is_common: whether all workers add to neurons of which each has a copy (``Plan.is_common``).
        is_everywhere: whether every worker computes all rows (``Plan.is_everywhere``).
        outliers: ``Plan.outliers`` of the source, (n,) bool; None: it has none.
    """

    own_weights: Weights
    ghost_weights: Weights
    sum_weights: Weights
    bias: np.ndarray
    ghost_neurons: np.ndarray
    ghosts: Lists
    sums: Lists
    sent_scales: np.ndarray
    received_scales: np.ndarray
    is_common: bool = False
    is_everywhere: bool = False
    outliers: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Shard:
    """The part of a network that one worker runs.

    Attributes:
        worker, workers: q and P.
        graph: the restructured network, its mixings without weights and biases.
        own: space name -> neurons that the worker holds, ascending, int64: those that it owns and that are
            not removed, and of a replicated input those that it needs.
        blocks: mixing name -> the worker's part.
        plan_identity: ``Plan.identity`` of the plan it belongs to.
        comm_dtype: ``Plan.comm_dtype``.
        twins: mixing -> an earlier one with the same weights, which are kept once; mixings without are left
            out.
    """

    worker: int
    workers: int
    graph: Network
    own: dict[str, np.ndarray]
    blocks: Mapping[str, Block]
    plan_identity: str
    comm_dtype: str
    twins: Mapping[str, str] = field(default_factory=dict)


def make_shard(network: Network, plan: Plan, worker: int, dtype: type = np.float32) -> Shard:
    """Cut ``worker``'s part out of a restructured network.

    Args:
        network: its weights are zero where ``plan.allowed`` is False.
        plan: for the same network.
        worker: 0..P-1.
        dtype: of the weights in the shard.

    Returns:
        its blocks are cut when they are looked up (``MadeBlocks``).
    """
    own = local_neurons(network, plan, worker)
    return Shard(
        worker=worker,
        workers=plan.workers,
        graph=_without_weights(network).astype(dtype),
        own=own,
        blocks=MadeBlocks(network, plan, own, worker, dtype),
        plan_identity=plan.identity(),
        comm_dtype=plan.comm_dtype,
    )


class MadeBlocks(Mapping[str, Block]):
    """The blocks of one worker, each cut out of a network whenever it is looked up; nothing is kept.

    So a rank that packs one after the other has its weights in memory once, beside the network.

    Args:
        network, plan, worker, dtype: see ``make_shard``.
        own: ``Shard.own`` of the worker.
    """

    def __init__(
        self, network: Network, plan: Plan, own: dict[str, np.ndarray], worker: int, dtype: type
    ) -> None:
        self._network, self._plan, self._own = network, plan, own
        self._worker, self._dtype = worker, dtype
        self._mixings = {mixing.name: mixing for mixing in network.mixings}

    def __getitem__(self, name: str) -> Block:
        return _make_block(
            self._network, self._plan, self._mixings[name], self._own, self._worker, self._dtype
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._mixings)

    def __len__(self) -> int:
        return len(self._mixings)


def _without_weights(network: Network) -> Network:
    """The network, its mixings with no weights and biases; not as views, which would keep all of them."""
    bare_mixings = {
        mixing.name: replace(
            mixing, weights=np.empty((0, 0), mixing.weights.dtype), bias=np.empty(0, mixing.bias.dtype)
        )
        for mixing in network.mixings
    }
    return network.with_mixings(bare_mixings)


def local_neurons(network: Network, plan: Plan, worker: int) -> dict[str, np.ndarray]:
    """``Shard.own`` of ``worker``."""
    # Of an input a worker holds what it reads; of common neurons it has them all.
    masks = {
        space.name: np.full(space.neurons, space.name not in network.input_spaces)
        for space in network.free_spaces
    }
    for mixing in network.mixings:
        used = np.flatnonzero(plan.mixings[mixing.name].ghosts[worker])
        for part in network.parts(mixing.source):
            if part in network.input_spaces:
                index = network.neurons_in(mixing.source, part)[used]
                masks[part][index[index >= 0]] = True
    reads, removed = network.derive(masks), plan.removed_neurons(network)
    return {
        name: np.flatnonzero(((owner == worker) & ~removed[name]) | ((owner == EVERYBODY) & reads[name]))
        for name, owner in plan.owners.items()
    }


class Traffic(NamedTuple):
    """Neurons of one worker that a mixing reads, sends and receives; see ``Block``."""

    ghost_neurons: np.ndarray
    ghosts: Lists
    sums: Lists


def traffic_of(network: Network, plan: Plan, mixing: Mixing, worker: int) -> Traffic:
    """The lists of ``worker`` for ``mixing``, which may be bare."""
    source_owner, target_owner = plan.ends(network, mixing)
    masks, exchanged = plan.mixings[mixing.name], plan.exchanged(network, mixing)
    # The owner of a ghost sends it, the owner of a sum receives it.
    return Traffic(
        _fetched(masks.ghosts, source_owner, worker)[0],
        Lists(*_served(exchanged, source_owner, worker), *_fetched(exchanged, source_owner, worker)),
        _common_sums(masks.sums, worker)
        if (target_owner == EVERYBODY).all()
        else Lists(*_fetched(masks.sums, target_owner, worker), *_served(masks.sums, target_owner, worker)),
    )


def _make_block(
    network: Network, plan: Plan, mixing: Mixing, own: dict[str, np.ndarray], worker: int, dtype: type
) -> Block:
    columns, rows = (own[network.space_of[tensor]] for tensor in (mixing.source, mixing.target))
    ghost_neurons, ghosts, sums = traffic_of(network, plan, mixing, worker)
    bias, summed = mixing.bias[rows], sums.sent
    if plan.is_common(network, mixing):  # what is sent is what the worker computes for itself
        summed = summed[:0]
        bias = bias if worker == 0 else np.zeros_like(bias)

    scales = plan.scales.get(mixing.source)

    def scales_of(neurons: np.ndarray) -> np.ndarray:
        return np.empty(0, np.float32) if scales is None else scales[neurons]

    def cut(rows: np.ndarray, neurons: np.ndarray) -> Weights:
        return _taken(mixing.weights, rows, column_numbers(neurons, mixing.taps)).astype(dtype, copy=False)

    def is_summed(places: np.ndarray, entries: np.ndarray) -> np.ndarray:
        return ~plan.mixings[mixing.name].ghosts[sums.sent_to[places], columns[entries // mixing.taps]]

    return Block(
        own_weights=cut(rows, columns),
        ghost_weights=cut(rows, ghost_neurons),
        sum_weights=kept(cut(summed, columns), is_summed),
        bias=bias.astype(dtype),
        ghost_neurons=ghost_neurons,
        ghosts=ghosts,
        sums=sums,
        sent_scales=scales_of(ghosts.sent),
        received_scales=scales_of(ghosts.received),
        is_common=plan.is_common(network, mixing),
        is_everywhere=plan.is_everywhere(network, mixing),
        outliers=plan.outliers.get(mixing.source),
    )


def _taken(weights: Weights, rows: np.ndarray, columns: np.ndarray) -> Weights:
    """Some rows and columns of weights; whole rows that follow one another are no copy."""
    m, n = rows.size, weights.shape[1]
    # Rows of sums go by who gets them: their numbers need not ascend.
    is_whole = m and columns.size == n and (np.diff(rows) == 1).all()
    if isinstance(weights, np.ndarray) and is_whole and np.array_equal(columns, np.arange(n)):
        return weights[rows[0] : rows[0] + m]
    return picked(weights, rows, columns)


def _fetched(mask: np.ndarray, owner: np.ndarray, worker: int) -> tuple[np.ndarray, np.ndarray]:
    """Neurons in the mask of ``worker`` that others own, and their owners, by (owner, neuron)."""
    neurons = np.flatnonzero(mask[worker] & (owner != worker) & (owner != EVERYBODY))
    neurons = neurons[np.argsort(owner[neurons], kind="stable")]
    return neurons, owner[neurons]


def _common_sums(mask: np.ndarray, worker: int) -> Lists:
    """The lists of ``worker`` for sums of common neurons, which everybody sends to all others."""
    others = np.delete(np.arange(len(mask)), worker)
    sent, received = np.flatnonzero(mask[worker]), [np.flatnonzero(mask[other]) for other in others]
    return Lists(
        np.tile(sent, others.size),
        np.repeat(others, sent.size).astype(np.int32),
        np.concatenate([np.empty(0, np.int64), *received]),
        np.repeat(others, [neurons.size for neurons in received]).astype(np.int32),
    )


def _served(mask: np.ndarray, owner: np.ndarray, worker: int) -> tuple[np.ndarray, np.ndarray]:
    """Neurons that ``worker`` owns in the masks of others, and whose mask, by (other, neuron)."""
    served = mask & (owner == worker)
    served[worker] = False
    receivers, neurons = np.nonzero(served)
    return neurons, receivers.astype(np.int32)
