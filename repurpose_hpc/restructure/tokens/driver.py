"""The method, for networks of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.restructure.context import Log, silent
from repurpose_hpc.restructure.cut import Cut
from repurpose_hpc.restructure.exact import split_network
from repurpose_hpc.restructure.tokens.options import TokenOptions


def restructure_tokens(
    network: Network, texts: Sequence[np.ndarray], options: TokenOptions, log: Log = silent
) -> Cut:
    """Restructure a network of tokens for ``options.workers`` workers; as yet it is split as it is.

    Args:
        network: of tokens.
        texts: calibration data, ids (tokens,) of each text.
        options: how.
        log: is given one line for each step.
    """
    weights = None if options.part_weights is None else np.array(options.part_weights)
    return split_network(network, options.workers, weights, options.round_cost)
