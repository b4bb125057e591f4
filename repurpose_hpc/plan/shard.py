"""One worker's part of a restructured network: its weights and its send and receive lists.

The lists of two workers fit together without a message: what p sends to q and what q
receives from p are the same neurons in the same, ascending, order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repurpose_hpc.model.network import Elementwise, Mixing, Network
from repurpose_hpc.plan.plan import EVERYBODY, Plan


@dataclass(frozen=True, eq=False)
class Lists:
    """What one worker exchanges with others for a mixing: ghost neurons, or partial sums of neurons.

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


@dataclass(frozen=True, eq=False)
class Block:
    """One worker's part of a mixing; m_q and n_q are its own neurons of the two spaces.

    Attributes:
        name, source, target: of the mixing and its tensors.
        source_space, target_space: the spaces of those tensors.
        own_weights: (m_q, n_q), own neurons into own neurons.
        ghost_weights: (m_q, ghosts.received), one column for each ghost neuron.
        sum_weights: (sums.sent, n_q), one row for each partial sum that leaves; zero where the
            receiver has the column as a ghost.
        bias: (m_q,).
        ghosts: neurons of the source space that travel.
        sums: neurons of the target space of which partial sums travel.
    """

    name: str
    source: str
    target: str
    source_space: str
    target_space: str
    own_weights: np.ndarray
    ghost_weights: np.ndarray
    sum_weights: np.ndarray
    bias: np.ndarray
    ghosts: Lists
    sums: Lists


@dataclass(frozen=True, eq=False)
class Shard:
    """What one worker runs.

    Attributes:
        worker, workers: q and P.
        input, output: names of the input and output tensors.
        own: space name -> neurons that the worker holds, ascending, int64; for a replicated
            input the columns that it needs.
        sizes: space name -> number of neurons of the whole space.
        space_of: tensor name -> space name.
        steps: in the order of execution.
        head: applied to whole output vectors.
        plan_identity: ``Plan.identity`` of the plan it belongs to.
    """

    worker: int
    workers: int
    input: str
    output: str
    own: dict[str, np.ndarray]
    sizes: dict[str, int]
    space_of: dict[str, str]
    steps: tuple[Block | Elementwise, ...]
    head: str
    plan_identity: str


def make_shard(network: Network, plan: Plan, worker: int, dtype: type = np.float32) -> Shard:
    """Cut ``worker``'s part out of a restructured network.

    Args:
        network: its weights are zero where ``plan.allowed`` is False.
        plan: for the same network.
        worker: 0..P-1.
        dtype: of the weights in the shard.
    """
    own = {space.name: _held(network, plan, space.name, worker) for space in network.spaces}
    steps = tuple(
        _make_block(network, plan, op, own, worker, dtype) if isinstance(op, Mixing) else op
        for op in network.operations
    )
    return Shard(
        worker=worker,
        workers=plan.workers,
        input=network.input,
        output=network.output,
        own=own,
        sizes={space.name: space.neurons for space in network.spaces},
        space_of=dict(network.space_of),
        steps=steps,
        head=network.head,
        plan_identity=plan.identity(),
    )


def _held(network: Network, plan: Plan, space: str, worker: int) -> np.ndarray:
    """The neurons of ``space`` that ``worker`` owns, or of a replicated input those that it needs."""
    owner = plan.owners[space]
    if (owner != EVERYBODY).all():
        return np.flatnonzero(owner == worker)
    readers = [mixing for mixing in network.mixings if network.space_of[mixing.source] == space]
    return np.flatnonzero(np.any([plan.mixings[mixing.name].ghosts[worker] for mixing in readers], axis=0))


def _make_block(
    network: Network, plan: Plan, mixing: Mixing, own: dict[str, np.ndarray], worker: int, dtype: type
) -> Block:
    source_space, target_space = network.space_of[mixing.source], network.space_of[mixing.target]
    columns, rows = own[source_space], own[target_space]
    source_owner, target_owner = plan.owners[source_space], plan.owners[target_space]
    masks = plan.mixings[mixing.name]
    # The owner of a ghost sends it, the owner of a sum receives it.
    ghosts = Lists(
        *_served(masks.ghosts, source_owner, worker), *_fetched(masks.ghosts, source_owner, worker)
    )
    sums = Lists(*_fetched(masks.sums, target_owner, worker), *_served(masks.sums, target_owner, worker))
    sum_weights = mixing.weights[np.ix_(sums.sent, columns)]
    sum_weights[masks.ghosts[np.ix_(sums.sent_to, columns)]] = 0
    return Block(
        name=mixing.name,
        source=mixing.source,
        target=mixing.target,
        source_space=source_space,
        target_space=target_space,
        own_weights=mixing.weights[np.ix_(rows, columns)].astype(dtype),
        ghost_weights=mixing.weights[np.ix_(rows, ghosts.received)].astype(dtype),
        sum_weights=sum_weights.astype(dtype),
        bias=mixing.bias[rows].astype(dtype),
        ghosts=ghosts,
        sums=sums,
    )


def _fetched(mask: np.ndarray, owner: np.ndarray, worker: int) -> tuple[np.ndarray, np.ndarray]:
    """Neurons in the mask of ``worker`` that others own, and their owners, by (owner, neuron)."""
    neurons = np.flatnonzero(mask[worker] & (owner != worker) & (owner != EVERYBODY))
    neurons = neurons[np.argsort(owner[neurons], kind="stable")]
    return neurons, owner[neurons]


def _served(mask: np.ndarray, owner: np.ndarray, worker: int) -> tuple[np.ndarray, np.ndarray]:
    """Neurons that ``worker`` owns in the masks of others, and whose mask, by (other, neuron)."""
    wanted = mask & (owner == worker)
    wanted[worker] = False
    others, neurons = np.nonzero(wanted)
    return neurons, others.astype(np.int32)
