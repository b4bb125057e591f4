"""Demands for numbers of workers without a plan, from the sparsity of another plan.

*Shares.*  A worker has a share of the others' neurons as ghosts, and contributes to a share of the sums for
others.  Neither share depends on the number of workers P: the communication fraction of every mixing is kept.
So a worker receives about as many ghosts however many workers there are, and a space of n neurons of which
the share ρ is wanted costs ρ n (P - 1) values.

*Pairs.*  A pair of workers has about ρ n / P ghosts.  Ghosts of different pairs are taken for independent.  A
message from p to q is then expected 1 - (1 - ρ_q)^(neurons of p) times.  When P exceeds ρ n, most pairs have
none, and there are as many messages as values.

*Imbalance.*  Neurons are shared out evenly.  Worker q has the shares of worker ⌊q P₀ / P⌋ in a plan of P₀
workers.  The owners of the neurons that others want are not kept.  Workers without rows want no ghosts, those
without columns contribute to no sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce

import numpy as np

from repurpose_hpc.forecast.demand import (
    Demand,
    MixingDemand,
    Traffic,
    block_density,
    demand_in_rounds,
    product_shape,
)
from repurpose_hpc.model.comm_dtype import BITS, EXACT
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.plan.plan import Plan, block_owners, dense_plan

# Workers of the plan whose sparsity stands for that of the dense network.
DENSE_WORKERS = 8


@dataclass(frozen=True, eq=False)
class Sparsity:
    """Sparsity of a mixing; each array has an entry for each worker that has a part in it.

    Attributes:
        exchanged: share of the neurons of others that come when it is computed.
        ghosts: share of the neurons of others that it uses.
        sums: share of the rows of others that a worker contributes to.
        reads: share of a replicated input that a worker reads.
        density: see ``MixingDemand``.
    """

    exchanged: np.ndarray
    ghosts: np.ndarray
    sums: np.ndarray
    reads: np.ndarray
    density: float


Profile = Mapping[str, Sparsity]


def plan_profile(network: Network, plan: Plan) -> Profile:
    """Sparsity of every mixing of a restructured network in its plan."""
    return {mixing.name: _sparsity(network, plan, mixing) for mixing in network.mixings}


def dense_profile(network: Network, placement: str) -> Profile:
    """Nothing pruned, narrow mixings by partial sums: see ``dense_plan``."""
    return plan_profile(network, dense_plan(network, DENSE_WORKERS, placement, np.ones(DENSE_WORKERS)))


def budget_profile(network: Network, placement: str, fraction: float) -> Profile:
    """An assumption: every mixing sends ``fraction`` of what it sends densely.

    Mixings that send no more than that as unpruned partial sums do so.
    """
    dense, full_share = dense_profile(network, placement), np.ones(DENSE_WORKERS)
    profile = {}
    for mixing in network.mixings:
        sparsity = dense[mixing.name]
        too_many = network.size(mixing.target) > fraction * network.size(mixing.source)
        if sparsity.sums.any() and too_many:
            sparsity = replace(sparsity, exchanged=full_share, ghosts=full_share, sums=0 * full_share)
        exchanged, ghosts = fraction * sparsity.exchanged, fraction * sparsity.ghosts
        profile[mixing.name] = replace(sparsity, exchanged=exchanged, ghosts=ghosts)
    return profile


def scaled_demand(
    network: Network,
    profile: Profile,
    placement: str,
    workers: int,
    per_node: int,
    comm_dtype: str = EXACT,
    part_weights: np.ndarray | None = None,
) -> Demand:
    """The demand without a plan; numbers are expectations and need not be whole.

    Args:
        network: its weights do not matter.
        profile: of its mixings.
        placement: of the input; see ``plan.PLACEMENTS``.
        workers: P, any number from 1; also the ranks.
        per_node: ranks of a node.
        comm_dtype: in which ghosts travel, of ``COMM_DTYPES``.
        part_weights: relative speeds of the workers, (P,); None: all equal.
    """
    owners = block_owners(network, placement, np.ones(workers) if part_weights is None else part_weights)
    owned = {name: _owned_counts(owner, workers) for name, owner in owners.items()}
    # Of a replicated input, every worker pools and so on all that there is.
    counts = {name: owned[name] + np.count_nonzero(owner == EVERYBODY) for name, owner in owners.items()}
    mixings = {
        mixing.name: _mixing_demand(network, mixing, profile[mixing.name], owned, per_node, comm_dtype)
        for mixing in network.mixings
    }

    def merge(names: Sequence[str]) -> Traffic:
        ghosts, sums = ([getattr(mixings[name], kind) for name in names] for kind in ("ghosts", "sums"))
        if comm_dtype == EXACT:
            return merged([*ghosts, *sums], per_node)
        return beside(merged(ghosts, per_node), merged(sums, per_node))

    return demand_in_rounds(network, workers, mixings, counts, merge)


def expected_traffic(
    owned: np.ndarray, probability: np.ndarray, values: int, per_node: int, width: float = BITS[EXACT] / 8
) -> Traffic:
    """The exchange in which worker q wants each neuron of others with probability ``probability[q]``.

    Args:
        owned: neurons of each worker, (P,).
        probability: (P,).
        values: of a neuron.
        per_node: ranks of a node.
        width: bytes of a value.
    """
    node = np.arange(owned.size) // per_node
    sizes, size_index = np.unique(owned, return_inverse=True)
    messages_in, messages_out = np.zeros((2, owned.size)), np.zeros((2, owned.size))
    for number, size in enumerate(sizes):
        senders = size_index == number
        chance = 1 - (1 - probability) ** size  # that a sender of this size sends worker q something
        messages_in += _split(senders, node) * chance
        messages_out += np.where(senders, _split(chance, node), 0)
    received = values * _split(owned, node) * probability
    sent = values * _split(probability, node) * owned
    return Traffic(messages_out, messages_in, sent, received, width * sent, width * received)


def merged(exchanges: Sequence[Traffic], per_node: int) -> Traffic:
    """Several exchanges in one message for each pair that has any; they are taken for independent."""
    node = np.arange(exchanges[0].values_out.shape[1]) // per_node
    others = np.maximum(_split(np.ones(node.size), node), 1)

    def messages(counts: Iterable[np.ndarray]) -> np.ndarray:
        return others * (1 - math.prod(1 - count / others for count in counts))

    return replace(
        reduce(beside, exchanges),
        messages_out=messages(traffic.messages_out for traffic in exchanges),
        messages_in=messages(traffic.messages_in for traffic in exchanges),
    )


def beside(first: Traffic, second: Traffic) -> Traffic:
    """The traffic of two exchanges at the same time, in messages of their own."""
    return Traffic(*(getattr(first, field.name) + getattr(second, field.name) for field in fields(Traffic)))


def swapped(traffic: Traffic) -> Traffic:
    """The traffic with senders and receivers exchanged: the worker with the mask sends."""
    return Traffic(
        messages_out=traffic.messages_in,
        messages_in=traffic.messages_out,
        values_out=traffic.values_in,
        values_in=traffic.values_out,
        bytes_out=traffic.bytes_in,
        bytes_in=traffic.bytes_out,
    )


def _split(amounts: np.ndarray, node: np.ndarray) -> np.ndarray:
    """Sums over the other workers of a worker's node, and over those of other nodes, (2, P)."""
    in_node = np.bincount(node, weights=amounts)[node]
    return np.stack([in_node - amounts, np.sum(amounts) - in_node])


def _sparsity(network: Network, plan: Plan, mixing: Mixing) -> Sparsity:
    masks = plan.mixings[mixing.name]
    source, target = plan.owner(network, mixing.source), plan.owner(network, mixing.target)
    workers = np.arange(plan.workers)
    has_rows, has_columns = np.isin(workers, target), np.isin(workers, source)
    everybody = source == EVERYBODY
    exchanged = plan.exchanged(network, mixing)
    return Sparsity(
        exchanged=_share(exchanged & ~everybody, source)[has_rows],
        ghosts=_share(masks.ghosts & ~everybody, source)[has_rows],
        sums=_share(masks.sums, target)[has_columns] if has_columns.any() else np.zeros(1),
        reads=masks.ghosts[has_rows][:, everybody].mean(axis=1) if everybody.any() else np.zeros(1),
        density=block_density(network, plan, mixing),
    )


def _share(mask: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Part of the neurons of others that is in the mask of each worker, (P,)."""
    owned = np.bincount(owner[owner != EVERYBODY], minlength=len(mask))
    others = owned.sum() - owned
    shares = mask.sum(axis=1) / np.maximum(others, 1)
    # A worker that owns everything says nothing.
    return np.where(others > 0, shares, shares[others > 0].mean() if others.any() else 0)


def _owned_counts(owner: np.ndarray, workers: int) -> np.ndarray:
    """The neurons of each worker, (P,) float64."""
    return np.bincount(owner[owner != EVERYBODY], minlength=workers).astype(np.float64)


def _mixing_demand(
    network: Network,
    mixing: Mixing,
    sparsity: Sparsity,
    owned: dict[str, np.ndarray],
    per_node: int,
    comm_dtype: str,
) -> MixingDemand:
    columns, rows = (owned[network.space_of[tensor]] for tensor in (mixing.source, mixing.target))
    others = columns.sum() - columns
    shared = network.space(mixing.source).neurons - columns.sum()  # of a replicated input
    exchanged, ghosts, reads = (
        _spread(share, rows > 0) for share in (sparsity.exchanged, sparsity.ghosts, sparsity.reads)
    )
    sums = _spread(sparsity.sums, columns > 0)
    kind, positions = product_shape(network, mixing)
    comm_dtype = network.comm_dtype(mixing.source, comm_dtype)
    return MixingDemand(
        kind=kind,
        positions=positions,
        rows=rows,
        own_depth=(columns + reads * shared) * mixing.taps,
        ghost_depth=ghosts * others * mixing.taps,
        sum_rows=sums * (rows.sum() - rows),
        density=sparsity.density,
        ghosts=expected_traffic(
            columns, exchanged, network.values(mixing.source), per_node, BITS[comm_dtype] / 8
        ),
        sums=swapped(expected_traffic(rows, sums, network.values(mixing.target), per_node)),
    )


def _spread(shares: np.ndarray, busy: np.ndarray) -> np.ndarray:
    """Shares of all workers, (P,): for each busy one of ``shares``, in order, 0 for the others."""
    spread, count = np.zeros(busy.size), np.count_nonzero(busy)
    spread[busy] = shares[np.arange(count) * shares.size // max(int(count), 1)]
    return spread
