"""Rounds of exchanges: what can travel at the same time.

A tensor is complete after as many rounds as there are, at most, mixings that wait for messages on a path
from the inputs to it.  Ghosts of a tensor, and sums that are computed from it, need only the tensor: they
travel in the round in which it is complete, with all others of that round.  No order of the operations needs
fewer rounds.

Of a layer shared out by position some parts may wait for a halo and others not, as with stride 2.  All
are done in the round of the last: a worker that went ahead would send late what others need in this round, as
all of a round travels together, and they would take turns in waiting for each other.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing, Operation
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.plan.plan import Plan


def rounds_before(network: Network, waiting: Container[str]) -> dict[str, int]:
    """Count the rounds that must be over before each tensor is complete; 0 for the inputs.

    Args:
        network: the graph.
        waiting: names of the mixings that wait for ghosts, or for sums.
    """
    rounds = dict.fromkeys(network.input_tensors, 0)
    together = _done_together(network, waiting)
    for op in network.operations:
        begun = max(rounds[source] for source in op.sources)
        rounds[op.target] = begun + (isinstance(op, Mixing) and op.name in waiting)
        targets = together.get(op.name, ())
        rounds.update(dict.fromkeys(targets, max((rounds[target] for target in targets), default=0)))
    return rounds


def _done_together(network: Network, waiting: Container[str]) -> dict[str, list[str]]:
    """Targets that are complete in one round, by the last mixing that makes one of them.

    They are those of the parts of a layer that is shared out by position.  What moves halos, which is sparse,
    is none of them; nor are parts that themselves wait.
    """
    layers: dict[str, list[Mixing]] = {}
    for mixing in network.mixings:
        if mixing.name in network.tile_parts and not mixing.is_sparse:
            layers.setdefault(network.layer_of(mixing.name), []).append(mixing)
    return {
        parts[-1].name: [part.target for part in parts]
        for parts in layers.values()
        if not any(part.name in waiting for part in parts)
    }


def round_of(op: Operation, rounds: Mapping[str, int], waiting: Container[str]) -> int:
    """The round in which an operation is begun; ``rounds`` of ``rounds_before``."""
    return rounds[op.target] - (isinstance(op, Mixing) and op.name in waiting)


def waiting_mixings(network: Network, plan: Plan) -> set[str]:
    """Names of the mixings that wait for messages where every worker has a rank of its own."""
    return {
        mixing.name
        for mixing in network.mixings
        if _reads_ghosts(network, plan, mixing) or plan.sum_traffic(network, mixing).any()
    }


def _reads_ghosts(network: Network, plan: Plan, mixing: Mixing) -> bool:
    """Whether a worker reads neurons of others for a mixing, and does not only send them on for another."""
    return bool(plan.mixings[mixing.name].ghosts[:, plan.owner(network, mixing.source) != EVERYBODY].any())


def rounds_of(network: Network, plan: Plan) -> int:
    """Rounds that a sample takes, a rank for every worker."""
    return max(rounds_before(network, waiting_mixings(network, plan)).values())
