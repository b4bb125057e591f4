"""Networks split over workers as they are: nothing is pruned, and no data is needed."""

from __future__ import annotations

import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.model.network import Network
from repurpose_hpc.plan.plan import REPLICATED, block_owners, dense_plan_for, near_owners
from repurpose_hpc.restructure.cut import Cut


def split_network(network: Network, workers: int, part_weights: np.ndarray | None = None) -> Cut:
    """Give every worker a block of the neurons of every space; outputs stay the same but for rounding.

    Args:
        network: any; an attention head goes to one worker as a whole.
        workers: P, 1 or more.
        part_weights: relative capacities of the workers, (P,); None: all are the same.

    Raises:
        UserError: other numbers.
    """
    weights = np.ones(workers) if part_weights is None else np.asarray(part_weights, float)
    if workers < 1 or weights.shape != (workers,) or not (weights > 0).all():
        raise UserError(
            f"expected 1 or more workers and a capacity above 0 of each, got {workers}, {weights}"
        )
    owners = near_owners(network, block_owners(network, REPLICATED, weights))
    return Cut(network, dense_plan_for(network, workers, REPLICATED, owners))
