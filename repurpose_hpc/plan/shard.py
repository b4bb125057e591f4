"""One worker's part of a restructured network: its weights and its send and receive lists.

The lists of two workers fit together without a message: what p sends to q and what q
receives from p are the same neurons in the same, ascending, order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repurpose_hpc.model.network import Elementwise, Mixing, Network
from repurpose_hpc.plan.plan import EVERYBODY, GHOST, Plan


@dataclass(frozen=True, eq=False)
class Block:
    """One worker's part of a mixing; m_q and n_q are its own neurons of the two spaces.

    Attributes:
        name, source, target: of the mixing and its tensors.
        source_space, target_space: the spaces of those tensors.
        form: ``GHOST`` or ``PARTIAL``.
        own_weights: (m_q, n_q), own neurons into own neurons.
        remote_weights: ghost form: (m_q, received), one column for each ghost neuron;
            partial-sum form: (sent, n_q), one row for each partial sum that leaves.
        bias: (m_q,).
        sent: neurons sent, ascending for each receiver; (sent,) int64.
        sent_to: the worker that each is sent to, ascending; (sent,) int32.
        received: neurons received, ascending for each sender; (received,) int64.
        received_from: the worker that each comes from, ascending; (received,) int32.
    """

    name: str
    source: str
    target: str
    source_space: str
    target_space: str
    form: str
    own_weights: np.ndarray
    remote_weights: np.ndarray
    bias: np.ndarray
    sent: np.ndarray
    sent_to: np.ndarray
    received: np.ndarray
    received_from: np.ndarray


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
        network: its weights are zero wherever ``plan`` says that workers do not depend on each other.
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
    return np.flatnonzero(np.any([plan.mixings[mixing.name].mask[worker] for mixing in readers], axis=0))


def _make_block(
    network: Network, plan: Plan, mixing: Mixing, own: dict[str, np.ndarray], worker: int, dtype: type
) -> Block:
    source_space, target_space = network.space_of[mixing.source], network.space_of[mixing.target]
    columns, rows = own[source_space], own[target_space]
    form, mask = plan.mixings[mixing.name].form, plan.mixings[mixing.name].mask
    owner = plan.owners[source_space if form == GHOST else target_space]
    # Towards the mask's worker in ghost form, away from it in partial-sum form.
    fetched, fetched_from = _fetched(mask, owner, worker)
    served, served_to = _served(mask, owner, worker)
    if form == GHOST:
        received, received_from, sent, sent_to = fetched, fetched_from, served, served_to
        remote = mixing.weights[np.ix_(rows, received)]
    else:
        sent, sent_to, received, received_from = fetched, fetched_from, served, served_to
        remote = mixing.weights[np.ix_(sent, columns)]
    return Block(
        name=mixing.name,
        source=mixing.source,
        target=mixing.target,
        source_space=source_space,
        target_space=target_space,
        form=form,
        own_weights=mixing.weights[np.ix_(rows, columns)].astype(dtype),
        remote_weights=remote.astype(dtype),
        bias=mixing.bias[rows].astype(dtype),
        sent=sent,
        sent_to=sent_to,
        received=received,
        received_from=received_from,
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
