"""Synthetic networks, and plans for them made directly at a budget.

A synthetic network computes nothing sensible, and how well its parts stand in for the whole does not matter:
only what is computed and sent does.  So it is not restructured: neurons are owned in blocks, and of all
ghosts those are kept whose columns have the largest norm, until the budget is used up.  That takes seconds
where fitting the weights to data takes minutes.  Random weights prefer no neighbour, so every rank
sends something to every other one: as many messages as in the dense network, only shorter.
"""

from __future__ import annotations

import math

import numpy as np

from repurpose_hpc.model.activations import IDENTITY, RELU
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.masks import MixingPlan
from repurpose_hpc.plan.plan import REPLICATED, Plan, dense_plan
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.owners.shares import neuron_shares


def random_network(width: int, layers: int, seed: int) -> Network:
    """A chain of square layers with ReLU between them, float32."""
    draw = np.random.default_rng(seed)
    scale = np.float32(math.sqrt(2 / width))
    weights = [scale * draw.standard_normal((width, width), np.float32) for _ in range(layers)]
    biases = [np.zeros(width, np.float32)] * layers
    return chain(weights, biases, [RELU] * (layers - 1) + [IDENTITY])


def cut_at_budget(network: Network, options: Options) -> tuple[Network, Plan]:
    """Keep the columns of largest norm.

    Args:
        network: a chain of dense layers, none of them with fewer outputs than inputs.
        options: ``workers``, ``input_placement``, ``comm_budget`` and ``part_weights``.

    Returns:
        the network, its weights zero where the plan does not provide for them, and the plan.
    """
    dense = dense_plan(network, options.workers, options.input_placement, _neuron_weights(network, options))
    travels = {mixing.name: dense.dense_values(network, mixing) > 0 for mixing in network.mixings}
    norms = {
        mixing.name: np.where(dense.mixings[mixing.name].ghosts, _norms(network, mixing, dense), 0)
        for mixing in network.mixings
        if travels[mixing.name]
    }
    smallest = _smallest_kept(norms, options.comm_budget)
    masks = {
        name: MixingPlan(norms[name] >= smallest, mask.sums) if travels[name] else mask
        for name, mask in dense.mixings.items()
    }
    plan = Plan(options.workers, options.input_placement, dense.owners, masks)
    return plan.pruned(network), plan


def _neuron_weights(network: Network, options: Options) -> np.ndarray:
    """Relative numbers of neurons with which the workers' weights go as ``part_weights``, (P,)."""
    if options.part_weights is None:
        return np.ones(options.workers)
    speeds = np.array(options.part_weights) / sum(options.part_weights)
    return neuron_shares(network, speeds, options.comm_budget, options.input_placement == REPLICATED)


def _norms(network: Network, mixing: Mixing, plan: Plan) -> np.ndarray:
    """Squared norm of each column in the rows of each worker, (P, n)."""
    owner, squares = plan.owner(network, mixing.target), np.square(mixing.W)
    return np.stack([squares[owner == q].sum(axis=0) for q in range(plan.workers)])


def _smallest_kept(norms: dict[str, np.ndarray], budget: float) -> float:
    """The norm of the smallest ghost that the budget still pays for; infinity if it pays for none."""
    sizes = np.concatenate([norm[norm > 0] for norm in norms.values()] or [np.empty(0)])
    count = math.floor(budget * sizes.size)
    return float(np.partition(sizes, -count)[-count]) if count else math.inf
