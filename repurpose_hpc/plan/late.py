"""The same network with late exchanges: workers compute in sweeps, on what others had in the sweep before.

In every sweep a worker computes all layers from its own neurons as they are now, and from the ghosts and
partial sums of others as they were in the last sweep; in the first there are none.  So all exchanges of a
sweep travel together, in one round, where the exact order has one round for each layer that is cut.  What a
sweep cannot change is not computed again: behind the k-th layer that is cut all is exact after k + 1 sweeps.
This is Jacobi's method for the equations of the network, which are triangular; with the own neurons as they
are now, block Gauss-Seidel's inside a worker.  Source: Ortega and Rheinboldt, "Iterative solution of
nonlinear equations in several variables" (1970).

A sweep of a mixing that is cut is two mixings, whose sum it is: one with the weights between neurons of one
worker, and one with all others, which reads the tensor of the sweep before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Combine, Operation, needed
from repurpose_hpc.model.weights import dense, kept, picked
from repurpose_hpc.plan.masks import EVERYBODY, MixingPlan
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.rounds import waiting_mixings
from repurpose_hpc.plan.shard import Block, Shard, traffic_of
from repurpose_hpc.plan.sweeps import Origin, Share, Swept, swept


@dataclass(frozen=True)
class Late:
    """A late network.

    Attributes:
        graph: of it, the weights of its mixings left as they were given, or none.
        plan: of it.
        origins: operation -> what it is a copy of.
        tensors: see ``Swept``.
        twins: mixing -> an earlier one with the same weights, if there is one.
    """

    graph: Network
    plan: Plan
    origins: Mapping[str, Origin]
    tensors: Mapping[str, str]
    twins: Mapping[str, str]

    def network(self, exact: Network) -> Network:
        """The graph, each mixing with the weights that it has of those of the exact network."""
        mixings, whole = {}, {mixing.name: mixing for mixing in exact.mixings}
        for copy in self.graph.mixings:
            name, share = self.origins[copy.name]
            mixing = replace(copy, weights=whole[name].weights, bias=whole[name].bias)
            if share is not Share.WHOLE:
                weights = self.plan.weights_between(self.graph, mixing, share is Share.BETWEEN)
                bias = np.zeros_like(mixing.bias) if share is Share.BETWEEN else mixing.bias
                mixing = replace(mixing, weights=weights, bias=bias)
            mixings[copy.name] = mixing
        return self.graph.with_mixings(mixings)

    def shard(self, shard: Shard) -> Shard:
        """A worker's part of it, from its part of the exact network."""
        return replace(shard, graph=self.graph, blocks=LateBlocks(self, shard), twins=self.twins)


def late(network: Network, plan: Plan, sweeps: int, apart: bool = False) -> Late:
    """The network whose workers compute in sweeps.

    Args:
        network: restructured, or its graph.
        plan: of it.
        sweeps: 1 or more.
        apart: see ``sweeps.swept``.

    Raises:
        UserError: workers have common neurons, as in networks of tokens.
    """
    if any(
        plan.is_common(network, mixing) or plan.is_everywhere(network, mixing) for mixing in network.mixings
    ):
        raise UserError(
            "exchange_late: expected a network whose neurons have one owner each, found common ones, as in "
            "networks of tokens; leave it out"
        )
    result = swept(network, waiting_mixings(network, plan), sweeps, apart)
    return Late(
        result.graph, _late_plan(plan, network, result), result.origins, result.tensors, _twins(result)
    )


def _late_plan(plan: Plan, network: Network, result: Swept) -> Plan:
    """The plan of all sweeps."""
    mixings = {}
    for mixing in result.graph.mixings:
        origin = result.origins[mixing.name]
        masks, source = plan.mixings[origin.op], plan.owner(result.graph, mixing.source)
        # What is read of a replicated input is there, and belongs to the part inside.
        given = masks.ghosts & (source == EVERYBODY)
        if origin.share in (Share.ALONE, Share.INSIDE):
            masks = MixingPlan(given, np.zeros_like(masks.sums))
        elif origin.share is Share.BETWEEN:
            masks = MixingPlan(masks.ghosts & ~given, masks.sums)
        mixings[mixing.name] = masks
    scales, outliers = (
        {name: found[exact] for name, exact in result.tensors.items() if exact in found}
        for found in (plan.scales, plan.outliers)
    )
    copies = {name: result.origins[name].op for name in mixings if name != result.origins[name].op}
    return replace(plan, mixings=mixings, scales=scales, outliers=outliers, relays={}, copies=copies)


def without_sweeps(network: Network, plan: Plan) -> Network:
    """The network in the exact order, with the weights of the last sweep.

    Args:
        network: late, with weights of mixings; any other one is returned as it is.
        plan: of it.
    """
    if not plan.copies:
        return network
    made_by = {mixing.target: mixing for mixing in network.mixings}
    operations: list[Operation] = []
    for op in network.operations:
        parts = {source: made_by[source] for source in op.sources if source in made_by}
        # The parts of a copy are of one mixing.
        if isinstance(op, Combine) and len(parts) == 2 and len({*map(plan.original, parts.values())}) == 1:
            inside, between = parts.values()
            weights = dense(inside.weights) + dense(between.weights)
            op = replace(inside, target=op.target, weights=weights)
        operations.append(op)
    operations = [*needed(operations, network.output_tensors)]
    tensors = {*network.input_tensors, *(op.target for op in operations)}
    return replace(
        network,
        operations=tuple(operations),
        space_of={name: space for name, space in network.space_of.items() if name in tensors},
        positions_of={name: shape for name, shape in network.positions_of.items() if name in tensors},
    )


def _twins(result: Swept) -> dict[str, str]:
    """See ``Late``."""
    twins: dict[str, str] = {}
    first: dict[Origin, str] = {}
    for mixing in result.graph.mixings:
        origin = result.origins[mixing.name]
        if origin in first:
            twins[mixing.name] = first[origin]
        first.setdefault(origin, mixing.name)
    return twins


class LateBlocks(Mapping[str, Block]):
    """The blocks of a worker, each made of one of the exact network whenever it is looked up."""

    def __init__(self, late: Late, shard: Shard) -> None:
        self._late, self._shard = late, shard
        self._mixings = {mixing.name: mixing for mixing in late.graph.mixings}

    def __getitem__(self, name: str) -> Block:
        origin = self._late.origins[name]
        block = self._shard.blocks[origin.op]
        if origin.share is Share.INSIDE:
            block = _inside(block)
        if origin.share is Share.BETWEEN:
            block = _between(block)
        # The first that reads a tensor has the ghosts of all that do.
        lists = traffic_of(self._late.graph, self._late.plan, self._mixings[name], self._shard.worker)
        scales = self._late.plan.scales.get(self._mixings[name].source)
        if scales is not None:
            sent, received = scales[lists.ghosts.sent], scales[lists.ghosts.received]
            block = replace(block, sent_scales=sent, received_scales=received)
        return replace(block, ghosts=lists.ghosts, sums=lists.sums)

    def __iter__(self) -> Iterator[str]:
        return iter(self._mixings)

    def __len__(self) -> int:
        return len(self._mixings)


def _inside(block: Block) -> Block:
    """The part of a block for which nothing is exchanged."""
    nothing = np.empty(0, np.int64)
    return replace(
        block,
        ghost_weights=picked(block.ghost_weights, np.arange(len(block.bias)), nothing),
        sum_weights=picked(block.sum_weights, nothing, np.arange(block.own_weights.shape[1])),
        ghost_neurons=nothing,
    )


def _between(block: Block) -> Block:
    """The part of a block for which something is exchanged."""
    nothing = kept(block.own_weights, lambda rows, _: np.zeros(rows.size, bool))
    return replace(block, own_weights=nothing, bias=np.zeros_like(block.bias))
