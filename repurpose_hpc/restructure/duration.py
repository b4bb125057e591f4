"""How much of a restructuring a mixing is, for the time that is left: by its size, not by its number.

Measuring takes the multiply-adds of a forward and of second moments, for every sample.  Eliminating takes
those of factoring second moments and of fitting every output, once; these count for more, as they wait for
memory.
"""

from __future__ import annotations

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Mixing
from repurpose_hpc.plan.masks import EVERYBODY
from repurpose_hpc.restructure.context import CutContext
from repurpose_hpc.restructure.decisions import Decisions

# Multiply-adds of measuring that take as long as one of eliminating, on layers 1024 wide with 8,000 samples.
PER_ELIMINATED = 16


def works_left(context: CutContext, decisions: Decisions) -> dict[str, float]:
    """How much there is to do for every mixing that is not finished, by name."""
    works = {}
    for mixing in context.mixings:
        if mixing.name not in decisions.finished:
            owned = context.owner(decisions, mixing.source) != EVERYBODY
            is_exchanged = context.options.workers > 1 and bool(owned.any())
            works[mixing.name] = work_of(context.network, mixing, context.samples, is_exchanged)
    return works


def work_of(network: Network, mixing: Mixing, samples: int, is_exchanged: bool) -> float:
    """Multiply-adds of finishing a mixing, in those of measuring.

    Args:
        network: that it is of.
        mixing: to be measured, eliminated and adjusted.
        samples: calibration data.
        is_exchanged: whether any neuron would have to cross for it; else nothing is eliminated.
    """
    rows, columns = mixing.weights.shape
    positions = network.values(mixing.target)
    measured = samples * positions * columns * (rows + columns)
    eliminated = columns**2 * (rows + columns / 3)
    if is_exchanged:
        return measured + PER_ELIMINATED * eliminated
    return samples * positions * columns * rows
