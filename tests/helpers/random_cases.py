"""Random networks with random plans for the ranks of this job, drawn by hypothesis."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from mpi4py import MPI

from repurpose_hpc.model.activations import KINDS, Activation, lipschitz
from repurpose_hpc.model.chain import sequence
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.masks import EVERYBODY, mixing_plan
from repurpose_hpc.plan.plan import PLACEMENTS, Plan, input_owners

COMM = MPI.COMM_WORLD

# Often 0: ghosts alone, sums alone and mixtures are all common.
DENSITIES = st.sampled_from([0.0, 0.0, 0.2, 0.7, 1.0])


@dataclass
class Case:
    network: Network
    plan: Plan
    x: np.ndarray
    max_batch: int


@st.composite
def cases(draw):
    """A random network with weights zero outside random masks, and samples for it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    workers = draw(st.integers(COMM.size, 3 * COMM.size))
    widths = draw(st.lists(st.integers(1, 20), min_size=2, max_size=5))
    steps = _draw_activations(draw, 1)
    for n, m in zip(widths, widths[1:], strict=False):
        kept = rng.random((m, n)) < draw(st.sampled_from([0.0, 0.1, 0.6, 1.0]))
        steps += [(rng.normal(size=(m, n)) * kept / np.sqrt(n), rng.normal(size=m))]
        steps += _draw_activations(draw, 2)
    dense = sequence(widths[0], steps)

    owners = {space.name: rng.integers(workers, size=space.neurons, dtype=np.int32) for space in dense.spaces}
    placement = draw(st.sampled_from(PLACEMENTS))
    owners["input"] = input_owners(widths[0], placement, rng.random(workers) + 0.01)
    plans = {}
    for mixing in dense.mixings:
        m, n = mixing.weights.shape
        ghosts, sums = rng.random((workers, n)) < draw(DENSITIES), rng.random((workers, m)) < draw(DENSITIES)
        source, target = (owners[dense.space_of[end]] for end in (mixing.source, mixing.target))
        plans[mixing.name] = mixing_plan(ghosts, sums, source, target)
    plan = Plan(workers, placement, owners, plans)

    max_batch = draw(st.integers(1, 9))
    x = rng.normal(size=(draw(st.integers(1, 2 * max_batch)), widths[0]))
    return Case(_without_masked(dense, plan), plan, x, max_batch)


# Without jumps, where rounding would decide, and defined everywhere: a weight of 0 that is not there makes a
# number of what is NaN in the reference.
SMOOTH = [kind for kind in KINDS if np.isfinite(lipschitz(Activation(kind))) or kind in ("square", "exp")]


def _draw_activations(draw, most):
    kinds = draw(st.lists(st.sampled_from(SMOOTH), max_size=most))
    return [Activation(kind, 0.3 if kind == "leaky_relu" else 0.0) for kind in kinds]


def _without_masked(network, plan):
    """Weights only where the masks allow one neuron to depend on the other, weight by weight."""
    mixings = {}
    for mixing in network.mixings:
        masks = plan.mixings[mixing.name]
        source, target = (plan.owners[network.space_of[end]] for end in (mixing.source, mixing.target))
        weights = mixing.weights.copy()
        for i, j in np.ndindex(weights.shape):
            allowed = masks.ghosts[target[i], j] or (source[j] != EVERYBODY and masks.sums[source[j], i])
            if source[j] != target[i] and not allowed:
                weights[i, j] = 0
        mixings[mixing.name] = Mixing(mixing.name, mixing.source, mixing.target, weights, mixing.bias)
    return network.with_mixings(mixings)
