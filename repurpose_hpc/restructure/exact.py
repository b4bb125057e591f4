"""Networks split over workers as they are: nothing is pruned, and no data is needed.

The stream of a transformer is read and added to by all workers.  Either every neuron of it has an owner, who
receives what the others add and sends them the sum: two rounds of exchanges for every half of a block, and
more for the means of its normalisations.  Or every worker has a copy of it, and sends what it adds to all
others: one round, but more values where there are many workers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.network import Network, Space
from repurpose_hpc.model.operations import Combine, Mixing
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.plan.plan import REPLICATED, block_owners, dense_plan_for, near_owners
from repurpose_hpc.plan.rounds import rounds_of
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.options import ROUND_COST


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
    is_count = isinstance(workers, int | np.integer) and not isinstance(workers, bool) and workers > 0
    weights = np.ones(workers if is_count else 0) if part_weights is None else np.asarray(part_weights, float)
    if not is_count or weights.shape != (workers,) or not (weights > 0).all() or not round_cost >= 0:
        raise UserError(
            "expected 1 or more workers, a capacity above 0 of each and a price of 0 or more, got "
            f"{workers}, {weights} and {round_cost}"
        )
    cuts = [_owned(network, weights)]
    if network.longest and workers > 1:
        cuts += _common(network, weights)
    return min(cuts, key=lambda cut: _price(cut, round_cost))


def _owned(network: Network, weights: np.ndarray) -> Cut:
    """The network with an owner for every neuron."""
    owners = near_owners(network, block_owners(network, REPLICATED, weights))
    return Cut(network, dense_plan_for(network, weights.size, REPLICATED, owners))


def _common(network: Network, weights: np.ndarray) -> list[Cut]:
    """The network with a stream that is everybody's, if it has one."""
    network = with_copied_outputs(network)
    common = common_spaces(network)
    if not common:
        return []
    owners = near_owners(network, block_owners(network, REPLICATED, weights))
    free = {space.name: owners[space.name] for space in network.free_spaces}
    free |= {name: np.full_like(free[name], EVERYBODY) for name in common}
    return [Cut(network, dense_plan_for(network, weights.size, REPLICATED, network.derive(free)))]


def with_copied_outputs(network: Network) -> Network:
    """The same network, its outputs of the stream copied: a copy has owners where the stream has none."""
    stream = _stream(network)
    copied = [name for name in network.output_tensors if stream & set(network.parts(name))]
    if not copied:
        return network
    copies = {name: f"{name}.copied" for name in copied}
    mixings = tuple(_copy(network, name, copy) for name, copy in copies.items())
    spaces = tuple(Space(copy, network.space(name).neurons) for name, copy in copies.items())
    return replace(
        network,
        spaces=(*network.free_spaces, *spaces, *(space for space in network.spaces if space.parts)),
        operations=(*network.operations, *mixings),
        space_of={**network.space_of, **{copy: copy for copy in copies.values()}},
        positions_of={**network.positions_of, **dict.fromkeys(copies.values(), ())},
        output_tensors=tuple(copies.get(name, name) for name in network.output_tensors),
    )


def _copy(network: Network, name: str, copy: str) -> Mixing:
    neurons = network.space(name).neurons
    weights, bias = np.eye(neurons, dtype=np.float32), np.zeros(neurons, np.float32)
    return Mixing(copy, name, copy, weights, bias, None, fixed=True)


def common_spaces(network: Network) -> set[str]:
    """The free spaces of which every worker may have a copy: of the stream, and of the means of its neurons.

    None if an output is of the stream: it would have no owner.
    """
    common = _stream(network)
    given = {part for tensor in network.output_tensors for part in network.parts(tensor)}
    if common & given:
        return set()
    free = [space.name for space in network.free_spaces]  # in the order in which they are made
    makers = {
        name: [mixing for mixing in network.mixings if name in network.parts(mixing.target)] for name in free
    }
    for name in free:
        copied = common | network.input_spaces
        of_common = (mixing.fixed and network.space_of[mixing.source] in copied for mixing in makers[name])
        if name not in network.input_spaces | given and all(of_common):
            common.add(name)
    return common


def _stream(network: Network) -> set[str]:
    """The free spaces to which layers with weights add."""
    free = {space.name for space in network.free_spaces}
    return free & {network.space_of[mixing.target] for mixing in adding_mixings(network)}


def adding_mixings(network: Network) -> tuple[Mixing, ...]:
    """The layers with weights whose results are added to others, as those of both halves of a block."""
    added = {
        source
        for op in network.operations
        if isinstance(op, Combine) and op.kind == "add"
        for source in op.sources
    }
    return tuple(mixing for mixing in network.mixings if not mixing.fixed and mixing.target in added)


def _price(cut: Cut, round_cost: float) -> float:
    """Values and rounds of a sample."""
    values = sum(cut.plan.values_sent(cut.network, mixing) for mixing in cut.network.mixings)
    return values + round_cost * rounds_of(cut.network, cut.plan)
