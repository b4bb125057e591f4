"""Networks with a budget for everything: nothing is pruned, owners alone are chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from repurpose_hpc.io.progress import PENDING
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.plan import Plan, block_owners, capacities, dense_plan_for
from repurpose_hpc.restructure.calibration.comm_dtype import measure_scales
from repurpose_hpc.restructure.calibration.propagation import CurrentNetwork, Propagation
from repurpose_hpc.restructure.constraints import Constraints
from repurpose_hpc.restructure.context import Log
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.options import ACTIVE, Options
from repurpose_hpc.restructure.owners.assignment import random_owners
from repurpose_hpc.restructure.owners.exact import exact_owners
from repurpose_hpc.restructure.owners.stages import constraints_for
from repurpose_hpc.restructure.team import Team

# Bits of a number: what tells that it is zero is one.
BITS = 32


def keep_everything(network: Network, samples: Samples, options: Options, log: Log, team: Team) -> Cut:
    """Cut without elimination, which would drop weights that only other samples need; collective."""
    propagation = Propagation(network, network.mixings, samples, team)
    plan = _plan(network, options, propagation, log, team)
    current = _all_of(network, replace(plan, comm_dtype=options.comm_dtype))
    return Cut(network, measure_scales(propagation, (mixing.source for mixing in network.mixings), current))


def _all_of(network: Network, plan: Plan) -> CurrentNetwork:
    """The network with nothing left to be decided."""
    return CurrentNetwork(network, plan, {mixing.name for mixing in network.mixings})


def _plan(network: Network, options: Options, propagation: Propagation, log: Log, team: Team) -> Plan:
    """The plan for owners as the assignment says, without scales; collective."""
    constraints, P, placement = constraints_for(network, options), options.workers, options.input_placement
    owners = block_owners(network, placement, constraints.part_weights, constraints.within)
    blocks = dense_plan_for(network, P, placement, owners, _summed(network, constraints))
    if options.assignment == "random":
        drawn = _drawn(network, options, constraints)
        return dense_plan_for(network, P, placement, drawn, _summed(network, constraints))
    if not options.by_hypergraph:
        return blocks
    activity = None
    if options.assignment == ACTIVE:
        activity = measure_activity(network, propagation, blocks)
    log(f"partitioning the hypergraph of all weights{PENDING}")
    # By one rank, which compiles the kernels for all.
    (found,) = team.map(
        lambda weights: exact_owners(
            network, placement, weights, options.seed, constraints.imbalance, activity
        ),
        [constraints.part_weights],
    )
    return dense_plan_for(network, P, placement, found.owners, found.summed)


def _summed(network: Network, constraints: Constraints) -> frozenset[str] | None:
    """Tensors whose readers send sums, of a network in stages: none that crosses, so that nobody computes
    what is the next stage's to compute; None: of one stage, as ``dense_plan_for`` has it.
    """
    if not constraints.within:
        return None
    readers: dict[str, list[Mixing]] = {}
    for mixing in network.mixings:
        readers.setdefault(mixing.source, []).append(mixing)
    return frozenset(
        tensor
        for tensor, mixings in readers.items()
        if sum(network.size(mixing.target) for mixing in mixings) < network.size(tensor)
        and not any(constraints.crosses(network, mixing) for mixing in mixings)
    )


def _drawn(network: Network, options: Options, constraints: Constraints) -> dict[str, np.ndarray]:
    """Owners drawn at random under the capacities, but for the inputs, of every space by name."""
    owners = block_owners(network, options.input_placement, constraints.part_weights)
    free = {space.name: owners[space.name] for space in network.free_spaces}
    for number, space in enumerate(network.free_spaces):
        if space.name not in network.input_spaces:
            capacity = capacities(space.neurons, constraints.weights_in(space.name), constraints.imbalance)
            rng = np.random.default_rng([options.seed, number])
            free[space.name] = random_owners(capacity, space.neurons, rng)
    return network.derive(free)


def measure_activity(network: Network, propagation: Propagation, plan: Plan) -> dict[str, np.ndarray]:
    """Values of every neuron that are sent without zeros, the mean over the samples; collective.

    A zero counts as the bit that says so.

    Args:
        network: as it is.
        propagation: of the calibration data.
        plan: any of the network.

    Returns:
        tensor that a mixing reads -> (n,), from 1/32 of its values to all of them.
    """
    tensors = list(dict.fromkeys(mixing.source for mixing in network.mixings))
    counts, samples = [np.zeros(network.space(tensor).neurons) for tensor in tensors], 0
    for size, *batch in propagation.map(_nonzero, tensors, _all_of(network, plan)):
        samples += size
        counts = [total + count for total, count in zip(counts, batch, strict=True)]
    activity = {}
    for tensor, count in zip(tensors, counts, strict=True):
        values = network.values(tensor)
        activity[tensor] = np.minimum(count / samples + values / BITS, values)
    return activity


def _nonzero(*tensors: np.ndarray) -> tuple[int, ...]:
    """The number of samples, and the values of every neuron of each tensor that are not zero."""
    return (tensors[0].shape[1], *(np.count_nonzero(x.reshape(len(x), -1), axis=1) for x in tensors))
