"""The network that ``--lossless`` leaves, before anything is cut, and what is to be said of it."""

from __future__ import annotations

import time
from typing import Any, TypedDict

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.progress import PENDING
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.model.forward import forward_middle
from repurpose_hpc.model.lossless import reduced
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.plan import dense_plan
from repurpose_hpc.restructure.constraints import constraints_of
from repurpose_hpc.restructure.context import Log
from repurpose_hpc.restructure.options import Options
from repurpose_hpc.restructure.team import Team

# Samples on which the outputs are compared.
COMPARED = 100
# Relative to the largest output, in float64: rounding is far below, a mistake far above.
LARGEST_DIFFERENCE = 1e-6


class Reduction(TypedDict):
    """Sizes of the original network and of what is left, under the names of the report."""

    neurons: int
    original_neurons: int
    edges: int
    original_edges: int
    dense_values: int
    original_dense_values: int
    difference: float
    seconds: float


def without_seconds(reduction: Reduction) -> dict[str, Any]:
    """What is the same in every run."""
    return {name: number for name, number in reduction.items() if name != "seconds"}


def reduce(
    network: Network, samples: Samples, options: Options, team: Team, log: Log
) -> tuple[Network, Reduction]:
    """The network without what its outputs do not need; collective, one rank makes it for all.

    Args:
        network: trained.
        samples: as the network takes them; outputs are compared on the first of them.
        options: whose workers and input placement dense values are for.
        team: all have the result.
        log: is given one line.

    Raises:
        UserError: the outputs are others.
    """
    log(f"lossless{PENDING}")
    began = time.perf_counter()

    def make(network: Network) -> tuple[Network | None, float]:
        smaller = reduced(network)
        return (None, 0.0) if smaller is network else (smaller, _difference(network, smaller, samples))

    ((found, difference),) = team.map(make, [network])
    smaller = network if found is None else found
    if not difference <= LARGEST_DIFFERENCE:
        raise UserError(
            f"--lossless: expected outputs that differ by rounding alone, found {difference:.3g} relative to "
            "the largest, in float64; the network amplifies rounding, or there is a mistake in the rules: "
            "leave --lossless out, and report it"
        )
    sizes = Reduction(
        neurons=neurons(smaller),
        original_neurons=neurons(network),
        edges=smaller.weight_count,
        original_edges=network.weight_count,
        dense_values=_dense_values(smaller, options),
        original_dense_values=_dense_values(network, options),
        difference=difference,
        seconds=time.perf_counter() - began,
    )
    log(
        f"lossless: {sizes['neurons']:,} of {sizes['original_neurons']:,} neurons and {sizes['edges']:,} of "
        f"{sizes['original_edges']:,} edges are left"
    )
    return smaller, sizes


def neurons(network: Network) -> int:
    """Number of neurons that are computed; those tied by additions count once."""
    inputs = network.input_spaces
    return sum(space.neurons for space in network.free_spaces if space.name not in inputs)


def _difference(network: Network, smaller: Network, samples: Samples) -> float:
    """The largest difference of an output on the first samples, relative to the largest output."""
    batch = next(iter(samples.batches(COMPARED, dtype=np.float64)))
    expected, found = (forward_middle(each, batch) for each in (network, smaller))
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), np.finfo(float).tiny))


def _dense_values(network: Network, options: Options) -> int:
    part_weights = constraints_of(options).part_weights
    plan = dense_plan(network, options.workers, options.input_placement, part_weights)
    return sum(plan.dense_values(network, mixing) for mixing in network.mixings)
