"""Networks split over workers as they are: nothing is pruned, and no data is needed.

The stream of a transformer is read and added to by all workers.  Either every neuron of it has an owner, who
receives what the others add and sends them the sum: two rounds of exchanges for every half of a block, and
more for the means of its normalisations.  Or every worker has a copy of it, and sends what it adds to all
others: one round, but more values where there are many workers.
"""

from __future__ import annotations

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Combine
from repurpose_hpc.plan.plan import EVERYBODY, REPLICATED, Plan, block_owners, dense_plan_for, near_owners
from repurpose_hpc.plan.rounds import rounds_of
from repurpose_hpc.restructure.cut import Cut

# Values of a token that take a link of a gigabit as long as a round of exchanges, about 100 us.
ROUND_COST = 3000.0


def split_network(
    network: Network,
    workers: int,
    part_weights: np.ndarray | None = None,
    round_cost: float = ROUND_COST,
) -> Cut:
    """Give every worker a block of the neurons of every space; outputs stay the same but for rounding.

    Args:
        network: any; an attention head goes to one worker as a whole.
        workers: P, 1 or more.
        part_weights: relative capacities of the workers, (P,); None: all are the same.
        round_cost: price of a round of exchanges, in values of a sample; decides whether the stream of a
            network of tokens has owners or is everybody's.

    Raises:
        UserError: other numbers.
    """
    weights = np.ones(workers) if part_weights is None else np.asarray(part_weights, float)
    if workers < 1 or weights.shape != (workers,) or not (weights > 0).all() or not round_cost >= 0:
        raise UserError(
            "expected 1 or more workers, a capacity above 0 of each and a price of 0 or more, got "
            f"{workers}, {weights} and {round_cost}"
        )
    owners = near_owners(network, block_owners(network, REPLICATED, weights))
    plans = [dense_plan_for(network, workers, REPLICATED, owners)]
    common = common_spaces(network) if network.longest and workers > 1 else set()
    if common:
        free = {space.name: owners[space.name] for space in network.free_spaces}
        free |= {name: np.full_like(free[name], EVERYBODY) for name in common}
        plans.append(dense_plan_for(network, workers, REPLICATED, network.derive(free)))
    return Cut(network, min(plans, key=lambda plan: _price(network, plan, round_cost)))


def common_spaces(network: Network) -> set[str]:
    """The free spaces of which every worker may have a copy: of the stream, and of the means of its neurons.

    None if an output is of the stream: it would have no owner.
    """
    made = {mixing.target: mixing for mixing in network.mixings}
    free = {space.name for space in network.free_spaces}
    common = {
        network.space_of[op.target]
        for op in network.operations
        if isinstance(op, Combine)
        and op.kind == "add"
        and any(source in made and not made[source].fixed for source in op.sources)
    } & free
    if common & {network.space_of[tensor] for tensor in network.output_tensors}:
        return set()
    makers = {
        name: [mixing for mixing in network.mixings if name in network.parts(mixing.target)] for name in free
    }
    for name in [space.name for space in network.free_spaces]:  # in the order in which they are made
        copied = common | network.input_spaces
        of_common = (mixing.fixed and network.space_of[mixing.source] in copied for mixing in makers[name])
        if name not in network.input_spaces and all(of_common):
            common.add(name)
    return common


def _price(network: Network, plan: Plan, round_cost: float) -> float:
    """Values and rounds of a sample."""
    values = sum(plan.values_sent(network, mixing) for mixing in network.mixings)
    return values + round_cost * rounds_of(network, plan)
