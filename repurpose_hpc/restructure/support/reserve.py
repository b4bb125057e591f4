"""Step 3.1: the budget, and what cannot be pruned, which is paid for first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.masks import MixingPlan, dense_mixing_plan, trimmed
from repurpose_hpc.restructure.context import CutContext
from repurpose_hpc.restructure.decisions import Decisions, Owners


class BudgetTooSmall(UserError):
    """A budget below what cannot be pruned."""


def whole_budget(context: CutContext, owners: Owners) -> float:
    """The communication that the whole network may cost.

    Args:
        context: of the run.
        owners: of the inputs.
    """
    network = context.network
    parts = network.tile_parts
    exchanged = dict.fromkeys(mixing.source for mixing in network.mixings if mixing.name not in parts)
    cost = sum(dense_cost(context, owners, tensor) for tensor in exchanged)
    cost += sum(context.constraints.typical_dense_cost(part.dense_size) for part in parts.values())
    return context.options.comm_budget * cost


def dense_cost(context: CutContext, owners: Owners, tensor: str) -> float:
    """Cost of a dense exchange of ``tensor``; inner spaces count as shared out by the part weights."""
    network, total = context.network, 0.0
    for name in network.parts(tensor):
        neurons = network.neurons_in(tensor, name)
        if name in network.input_spaces:
            total += context.constraints.dense_cost(owners[name][neurons[neurons >= 0]])
        else:
            total += context.constraints.typical_dense_cost(int(np.count_nonzero(neurons >= 0)))
    return network.values(tensor) * total


def reserve(context: CutContext, decisions: Decisions) -> Decisions:
    """Plan the fixed mixings, whose inputs are all sent, and pay for them.

    Raises:
        BudgetTooSmall: they cost more than there is.
    """
    fixed = [mixing for mixing in context.network.mixings if mixing.fixed]
    for mixing in fixed:
        decisions = decisions.with_mask(mixing.name, _full_mask(context, decisions, mixing))
    exact = not any(context.arrives_rounded(mixing, decisions) for mixing in fixed)
    fixed_cost = sum(traffic_cost(context, decisions, mixing) for mixing in fixed)
    if decisions.budget - fixed_cost < 0:
        raise BudgetTooSmall(
            f"a communication budget of {context.options.comm_budget:.3g} is {decisions.budget:,.0f} per "
            f"sample, expected {fixed_cost:,.0f} at least: sums of normalisations, halos of layers by "
            "position, and inputs that are added to other neurons, cannot be pruned; allow more "
            "communication, or take fewer workers"
        )
    return replace(decisions, budget=decisions.budget - fixed_cost, exact=exact)


def _full_mask(context: CutContext, decisions: Decisions, mixing: Mixing) -> MixingPlan:
    """The mask of a fixed mixing: all that its weights use, as sums where those are fewer."""
    network = context.network
    owners = network.derive(dict(decisions.owners))
    source, target = (owners[network.space_of[end]] for end in (mixing.source, mixing.target))
    narrow = network.size(mixing.target) < network.size(mixing.source)
    plan = dense_mixing_plan(source, target, narrow, context.options.workers)
    return trimmed(plan, mixing.pattern, source, target)


def traffic_cost(context: CutContext, decisions: Decisions, mixing: Mixing) -> float:
    """Cost of what is sent for a mixing as it is planned, at the prices of the links."""
    network, links = context.network, context.constraints.link_costs
    cost = (context.plan(decisions).traffic(network, mixing) * links).sum()
    relays = decisions.relays.get(mixing.name)
    if relays is not None:
        cost += network.values(relays.shaped_as(mixing)) * links[relays.sender, relays.receiver].sum()
    return float(cost)
