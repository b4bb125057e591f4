"""Step 2.1: owners of every space, before anything is eliminated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.plan.plan import contiguous_owners, input_owners, tile_owner
from repurpose_hpc.restructure.context import CutContext
from repurpose_hpc.restructure.decisions import Decisions, Owners
from repurpose_hpc.restructure.owners.assignment import assign, assign_groups, random_owners
from repurpose_hpc.restructure.owners.costs import assignment_costs
from repurpose_hpc.restructure.owners.hypergraph import hypergraph_owners
from repurpose_hpc.restructure.owners.surroundings import Surroundings


def given_owners(context: CutContext) -> Owners:
    """Owners of the inputs, of tiles, and of what only fixed mixings make."""
    owners, weights = {}, context.constraints.part_weights
    for space in context.network.free_spaces:
        if space.name in context.network.input_spaces:
            owners[space.name] = input_owners(space.neurons, context.options.input_placement, weights)
        elif space.name in context.network.tile_owners:
            owners[space.name] = tile_owner(context.network, space, context.options.workers)
        elif space.name not in context.surroundings:
            owners[space.name] = contiguous_owners(space.neurons, context.constraints.weights_in(space.name))
    return owners


def assign_spaces(context: CutContext, decisions: Decisions) -> Decisions:
    """Owners of all spaces, each for the mixing that makes it first; collective."""
    parts = context.network.parts
    undecided = context.surroundings.keys() - decisions.owners.keys()
    for number, mixing in enumerate(context.mixings):
        for name in parts(mixing.source):
            if name not in decisions.owners:  # Made by fixed mixings, but tied to a target further on.
                neurons, weights = context.surroundings[name].neurons, context.constraints.weights_in(name)
                decisions = decisions.with_owners({name: contiguous_owners(neurons, weights)})
        for name in parts(mixing.target):
            if name in undecided - decisions.capacities.keys():
                capacity = _capacity(context, decisions, mixing, name)
                owner = owners_for(context, decisions, number, context.surroundings[name], capacity)
                decisions = replace(decisions, capacities={**decisions.capacities, name: capacity})
                decisions = decisions.with_owners({name: owner})
    return decisions


def _capacity(context: CutContext, decisions: Decisions, mixing: Mixing, name: str) -> np.ndarray:
    """Neurons of the space ``name``, which ``mixing`` makes, that each worker can own, (P,)."""
    source_owner = context.owner(decisions, mixing.source)
    neurons, room = context.surroundings[name].neurons, context.room(mixing) / mixing.taps
    return context.constraints.capacity(name, neurons, source_owner, room)


def owners_for(
    context: CutContext, decisions: Decisions, number: int, space: Surroundings, capacity: np.ndarray
) -> np.ndarray:
    """Owners of a space that mixing ``number`` is the first to make, (n,) int32."""
    mixing, options = context.mixings[number], context.options
    source_owner = context.owner(decisions, mixing.source)
    if options.assignment == "contiguous":
        return _blocks(space.neurons, context.constraints.weights_in(space.name), capacity)
    if options.assignment == "hypergraph":
        strengths = _strengths(mixing, space, source_owner.size)
        return hypergraph_owners(strengths, source_owner, capacity, options.seed)
    is_shared = bool((source_owner == EVERYBODY).all())
    if options.assignment == "random" or (is_shared and space.groups is None):
        # To a mixing whose inputs everybody has, all owners are alike: where the sweeps start from.
        return random_owners(capacity, space.neurons, np.random.default_rng([options.seed, number]))
    return _cheapest(context, decisions, mixing, space, capacity)


def _blocks(neurons: int, part_weights: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """Owners by blocks, as the part weights go or, if those do not fit, the capacities."""
    owner = contiguous_owners(neurons, part_weights)
    fits = (np.bincount(owner, minlength=len(capacity)) <= capacity).all()
    return owner if fits else contiguous_owners(neurons, capacity)


def _strengths(mixing: Mixing, space: Surroundings, source_neurons: int) -> np.ndarray:
    """Norm of the weights between every two neurons, (neurons of the space, neurons of the source)."""
    index, weights = space.index[mixing.target], np.zeros((space.neurons, source_neurons))
    strengths = (mixing.W**2).reshape(len(mixing.bias), -1, mixing.taps).sum(axis=2)
    weights[index[index >= 0]] = np.sqrt(strengths[index >= 0])
    return weights


def _cheapest(
    context: CutContext, decisions: Decisions, mixing: Mixing, space: Surroundings, capacity: np.ndarray
) -> np.ndarray:
    """The assignment of least error with what each worker owns of the source; collective."""
    moments = context.statistics.moments[mixing.name]
    problem = context.problem(decisions, mixing, decisions.owners, moments)
    costs = space.scatter(assignment_costs(problem, problem.own()), mixing.target)

    def decide(costs: np.ndarray) -> np.ndarray:
        groups = space.groups
        return assign(costs, capacity) if groups is None else assign_groups(costs, capacity, groups)

    # By one rank, which compiles the kernel for all.
    return context.team.map(decide, [costs])[0]
