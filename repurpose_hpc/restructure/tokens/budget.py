"""What a budget of communication is a fraction of."""

from __future__ import annotations

from repurpose_hpc.model.network import Network
from repurpose_hpc.restructure.exact import adding_mixings


def dense_values(network: Network, workers: int) -> int:
    """Values of a token that dense tensor parallelism sends: an all-reduce for each half of a block.

    The sum of D neurons goes to and from P - 1 workers: 2 D (P - 1) values, whatever the algorithm.

    Args:
        network: of tokens.
        workers: P.
    """
    added = sum(network.space(mixing.target).neurons for mixing in adding_mixings(network))
    return 2 * added * (workers - 1)
