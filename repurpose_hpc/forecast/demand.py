"""Demands of one forward on every rank: products, values to move, messages; all per sample.

A rank hosts one worker.  ``plan_demand`` counts in a plan; ``scaled`` makes demands without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np

from repurpose_hpc.model.comm_dtype import EXACT, code_dtype
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.normalisations import normalisations_of
from repurpose_hpc.model.operations import UNLIMITED, Attention, Cost, Mixing, Operation
from repurpose_hpc.model.weights import nonzeros
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.rounds import round_of, rounds_before
from repurpose_hpc.plan.shard import local_neurons

LOCAL, NETWORK = range(2)
DENSE, CONVOLUTION = "dense", "convolution"
# The type of values that travel as they are.
_EXACT = np.dtype(np.float32)


@dataclass(frozen=True, eq=False)
class Traffic:
    """Messages and values that each rank exchanges inside its node (``LOCAL``) and beyond (``NETWORK``).

    Attributes:
        messages_out, messages_in: (2, P) float64.
        values_out, values_in: per sample, (2, P) float64.
        bytes_out, bytes_in: what these take.
    """

    messages_out: np.ndarray
    messages_in: np.ndarray
    values_out: np.ndarray
    values_in: np.ndarray
    bytes_out: np.ndarray
    bytes_in: np.ndarray

    @property
    def active(self) -> bool:
        """True if any rank sends anything; if not, there is no exchange."""
        return bool(self.messages_out.any())


@dataclass(frozen=True, eq=False)
class MixingDemand:
    """A mixing, as ``runtime.lowering.mixings`` computes it.

    Attributes:
        kind: ``DENSE`` (also pointwise, and of whole maps) or ``CONVOLUTION``.
        positions: columns of the products for each sample.
        rows: own neurons of the target, (P,).
        own_depth, ghost_depth: inputs of a row, own ones and ghosts, times the kernel's size, (P,).
        sum_rows: partial sums computed for others, (P,).
        density: part of the blocks' weights that is not zero.
        ghosts, sums: what is exchanged for it.
    """

    kind: str
    positions: int
    rows: np.ndarray
    own_depth: np.ndarray
    ghost_depth: np.ndarray
    sum_rows: np.ndarray
    density: float
    ghosts: Traffic
    sums: Traffic

    @property
    def weights(self) -> np.ndarray:
        """Weights in the blocks of each rank, (P,)."""
        return self.rows * (self.own_depth + self.ghost_depth) + self.sum_rows * self.own_depth


@dataclass(frozen=True, eq=False)
class LocalDemand:
    """An operation without weights between neurons.

    Attributes:
        values: that each rank makes; with windows, rows of values times entries of the window; (P,).
        windows: whether it computes with windows: a pooling or a depthwise convolution.
    """

    values: np.ndarray
    windows: bool


@dataclass(frozen=True, eq=False)
class AttentionDemand:
    """Attention, as products of keys with queries and of values with what becomes of these.

    Attributes:
        rows: keys of a head that a sample reads.
        columns: queries of a sample that read one head of keys and values.
        multiply_adds: of a sample, (P,).
        scores: of a sample, (P,).
        kept: keys and values of a sample that are not made in this forward, but read from memory, (P,).
    """

    rows: int
    columns: int
    multiply_adds: np.ndarray
    scores: np.ndarray
    kept: np.ndarray


OperationDemand = MixingDemand | LocalDemand | AttentionDemand


@dataclass(frozen=True, eq=False)
class Demand:
    """A whole forward of P ranks.

    Attributes:
        ranks: P.
        steps: in order.
        spans: rounds of exchanges (``plan.rounds``) that are over when each step begins, and when it ends; a
            mixing that ends later than it begins waits for one.
        exchanges: the traffic of each round.
    """

    ranks: int
    steps: list[OperationDemand]
    spans: list[tuple[int, int]]
    exchanges: list[Traffic]

    @property
    def weights(self) -> np.ndarray:
        """Weights in the blocks of each rank, (P,)."""
        return sum((step.weights for step in self._mixings), np.zeros(self.ranks))

    @property
    def kept(self) -> np.ndarray:
        """Keys and values of a sample that each rank reads from memory, (P,)."""
        attentions = [step for step in self.steps if isinstance(step, AttentionDemand)]
        return sum((step.kept for step in attentions), np.zeros(self.ranks))

    @property
    def values_sent(self) -> float:
        """Values per sample between ranks."""
        return float(sum(traffic.values_out.sum() for traffic in self.exchanges))

    @property
    def messages(self) -> float:
        """Messages per forward between ranks."""
        return float(sum(traffic.messages_out.sum() for traffic in self.exchanges))

    @property
    def _mixings(self) -> list[MixingDemand]:
        return [step for step in self.steps if isinstance(step, MixingDemand)]


def plan_demand(
    network: Network, plan: Plan, per_node: int, comm_dtype: str = EXACT, context: int = 0
) -> Demand:
    """The demand of a network, counted in its plan.

    Args:
        network: restructured, or any whose weights are zero where ``plan`` has none.
        plan: for ``network``.
        per_node: ranks of a node.
        comm_dtype: in which ghosts travel, of ``COMM_DTYPES``.
        context: positions before those of a sample whose keys and values are kept (``forecast.tokens``).
    """
    counts = held_counts(network, plan)
    exchanged = {
        mixing.name: (
            _PairValues(
                plan.ghost_traffic(network, mixing),
                plan.ghost_bytes(network, mixing, comm_dtype),
                code_dtype(network.comm_dtype(mixing.source, comm_dtype), _EXACT),
            ),
            _exact(plan.sum_traffic(network, mixing)),
        )
        for mixing in network.mixings
    }

    mixings = {
        mixing.name: _mixing_demand(
            network, plan, mixing, counts, [_traffic([pairs], per_node) for pairs in exchanged[mixing.name]]
        )
        for mixing in network.mixings
    }

    def merge(names: Sequence[str]) -> Traffic:
        return _traffic([pairs for name in names for pairs in exchanged[name]], per_node)

    return demand_in_rounds(network, plan.workers, mixings, counts, merge, context)


def demand_in_rounds(
    network: Network,
    ranks: int,
    mixings: Mapping[str, MixingDemand],
    counts: Mapping[str, np.ndarray],
    merge: Callable[[Sequence[str]], Traffic],
    context: int = 0,
) -> Demand:
    """The demand whose exchanges are merged, as ``runtime.schedule.rounds`` does it.

    A normalisation for which a rank needs no other is one step, as in ``runtime.lowering.normalisation``.

    Args:
        network: the graph.
        ranks: P.
        mixings: the demands of the mixings by name.
        counts: see ``held_counts``.
        merge: the traffic of the mixings with these names, as one exchange.
        context: see ``plan_demand``.
    """
    local = [one for one in normalisations_of(network) if not any(_waits(mixings[name]) for name in one.sums)]
    passes = {one.last.name: 3 if one.is_centred else 2 for one in local}
    inside = {name for one in local for name in one.operations} - passes.keys()
    ops: list[Operation] = []
    steps: list[OperationDemand] = []
    for op in network.operations:
        cost = op.cost(network.shape(op.target))
        if cost is None or op.name in inside:
            continue
        ops.append(op)
        if op.name in passes:
            cost = cost._replace(values=passes[op.name] * cost.values)
            steps.append(_local_demand(network, op, cost, counts))
        elif isinstance(op, Attention):
            steps.append(_attention_demand(network, op, counts, context))
        else:
            steps.append(mixings.get(op.name) or _local_demand(network, op, cost, counts))
    ghosts = {mixing.source for mixing in network.mixings if mixings[mixing.name].ghosts.active}
    waiting = {m.name for m in network.mixings if m.source in ghosts or mixings[m.name].sums.active}
    rounds = rounds_before(network, waiting)
    spans = [(round_of(op, rounds, waiting), rounds[op.target]) for op in ops]
    travelling = [
        [mixing.name for mixing in network.mixings if rounds[mixing.source] == number]
        for number in range(max(rounds.values()))
    ]
    return Demand(ranks, steps, spans, [merge(names) for names in travelling])


def _waits(mixing: MixingDemand) -> bool:
    """Whether anything is exchanged for a mixing."""
    return mixing.ghosts.active or mixing.sums.active


def _local_demand(
    network: Network, op: Operation, cost: Cost, counts: Mapping[str, np.ndarray]
) -> LocalDemand:
    """The demand of an operation without weights between neurons."""
    return LocalDemand(counts[network.space_of[op.target]] * cost.values, cost.windows)


def _attention_demand(
    network: Network, op: Attention, counts: Mapping[str, np.ndarray], context: int
) -> AttentionDemand:
    """The demand of an attention; the keys of a sample go on behind those of ``context``."""
    queries, keys, values = (counts[network.space_of[source]] for source in op.sources[:3])
    made = counts[network.space_of[op.target]]
    tokens, known = network.values(op.sources[0]), context + network.values(op.sources[1])
    positions = context + np.arange(tokens)
    first = np.zeros_like(positions) if op.before == UNLIMITED else np.maximum(positions - op.before, 0)
    last = np.full_like(positions, known - 1) if op.after == UNLIMITED else positions + op.after
    seen = int((np.minimum(last, known - 1) - first + 1).sum())
    heads = made * op.heads / max(network.space(op.target).neurons, 1)
    return AttentionDemand(
        rows=int(min(last.max() + 1, known) - first.min()),
        columns=tokens * (op.heads // op.groups),
        multiply_adds=seen * (queries + made),
        scores=seen * heads,
        kept=float(max(context - first.min(), 0)) * (keys + values),
    )


def product_shape(network: Network, mixing: Mixing) -> tuple[str, int]:
    """Kind of a mixing as a product (``runtime.lowering.convolution``), and its columns for each sample."""
    cost = mixing.cost(network.shape(mixing.target))
    return CONVOLUTION if cost.windows else DENSE, cost.values


def block_density(network: Network, plan: Plan, mixing: Mixing) -> float:
    """Part of the weights in the blocks of a mixing that is not zero."""
    area = plan.allowed_count(network, mixing) * mixing.taps
    return nonzeros(mixing.weights) / area if area else 1.0


def held_counts(network: Network, plan: Plan) -> dict[str, np.ndarray]:
    """Neurons of each space that each worker holds, (P,) float64 by space."""
    held = [local_neurons(network, plan, worker) for worker in range(plan.workers)]
    return {name: np.array([own[name].size for own in held], np.float64) for name in held[0]}


def _mixing_demand(
    network: Network, plan: Plan, mixing: Mixing, counts: dict[str, np.ndarray], exchanged: Sequence[Traffic]
) -> MixingDemand:
    masks, owner = plan.mixings[mixing.name], plan.owner(network, mixing.source)
    (kind, positions), (ghosts, sums) = product_shape(network, mixing), exchanged
    rows = counts[network.space_of[mixing.target]]
    return MixingDemand(
        kind=kind,
        positions=positions,
        # All that is added to common neurons is a partial sum for others; it is computed once.
        rows=0 * rows if plan.is_common(network, mixing) else rows,
        own_depth=counts[network.space_of[mixing.source]] * mixing.taps,
        ghost_depth=(masks.ghosts & (owner != EVERYBODY)).sum(axis=1) * float(mixing.taps),
        sum_rows=masks.sums.sum(axis=1).astype(np.float64),
        density=block_density(network, plan, mixing),
        ghosts=ghosts,
        sums=sums,
    )


def all_pairs(values: int, ranks: int, per_node: int) -> Traffic:
    """The traffic of an exchange of so many values, as float32, from every rank to every other one."""
    pairs = values * (1 - np.eye(ranks, dtype=np.int64))
    return _traffic([_exact(pairs)], per_node)


class _PairValues(NamedTuple):
    """Values from each rank to each other, (P, P), [p, q] from p to q, their bytes, and the type of codes."""

    values: np.ndarray
    bytes: np.ndarray
    codes: np.dtype


def _exact(values: np.ndarray) -> _PairValues:
    """Values that travel as they are."""
    return _PairValues(values, values * _EXACT.itemsize, _EXACT)


def _traffic(exchanges: Sequence[_PairValues], per_node: int) -> Traffic:
    """Traffic of several exchanges, for each pair in one message of each type of codes."""
    node = np.arange(len(exchanges[0].values)) // per_node
    near = node[:, None] == node

    def split(values: np.ndarray) -> np.ndarray:
        return np.stack([np.where(near, values, 0), np.where(near, 0, values)]).astype(np.float64)

    def total(numbers: Iterable[np.ndarray]) -> np.ndarray:
        return split(reduce(np.add, numbers))

    of_type = [
        total(pairs.values for pairs in exchanges if pairs.codes == codes)
        for codes in {pairs.codes for pairs in exchanges}
    ]
    numbers = (
        reduce(np.add, [(values > 0) * 1.0 for values in of_type]),
        total(pairs.values for pairs in exchanges),
        total(pairs.bytes for pairs in exchanges),
    )
    return Traffic(*(number.sum(axis=axis) for number in numbers for axis in (2, 1)))
