"""Rounds of exchanges: what can travel at the same time.

A tensor is complete after as many rounds as there are, at most, mixings that wait for messages on a path
from the inputs to it.  Ghosts of a tensor, and sums that are computed from it, need only the tensor: they
travel in the round in which it is complete, with all others of that round.  No order of the operations needs
fewer rounds.
"""

from __future__ import annotations

from collections.abc import Container

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.plan.plan import Plan


def rounds_before(network: Network, waiting: Container[str]) -> dict[str, int]:
    """Count the rounds that must be over before each tensor is complete; 0 for the inputs.

    Args:
        network: the graph.
        waiting: names of the mixings that wait for ghosts, or for sums.
    """
    rounds = dict.fromkeys(network.input_tensors, 0)
    for op in network.operations:
        begun = max(rounds[source] for source in op.sources)
        rounds[op.target] = begun + (isinstance(op, Mixing) and op.name in waiting)
    return rounds


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
