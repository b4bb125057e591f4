"""Shares of neurons with which the loads of workers, which are weights, are as their speeds.

Where workers hardly communicate, a worker with a share s of all neurons holds about s² of the weights
between two spaces; where they exchange everything, s.
"""

from __future__ import annotations

import numpy as np

from repurpose_hpc.model.network import Network


def neuron_shares(network: Network, speeds: np.ndarray, fraction: float, replicated: bool) -> np.ndarray:
    """The share of the neurons that gives every worker its share of the weights.

    Args:
        network: trained.
        speeds: relative speeds of the workers, (P,), >= 0.
        fraction: of the dense communication that will remain, 0 to 1.
        replicated: everybody has the input.

    Returns:
        (P,), summing to 1.
    """
    linear = square = 0.0
    for mixing in network.mixings:
        weights = mixing.weights.size
        is_input = network.space_of[mixing.source] in network.input_spaces
        sends_all = (replicated and is_input) or network.size(mixing.target) < network.size(mixing.source)
        # s of the rows; of the columns s of their own and a fraction of the others.
        linear += weights * (1.0 if sends_all else fraction)
        square += 0.0 if sends_all else weights * (1 - fraction)
    low, high = 0.0, (linear + square) / speeds.max()

    def shares(load: float) -> np.ndarray:
        """s with linear s + square s² = load × speed."""
        loads = load * speeds
        root = linear + np.sqrt(linear**2 + 4 * square * loads)
        return np.divide(2 * loads, root, out=np.zeros_like(loads), where=loads > 0)

    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if shares(middle).sum() < 1 else (low, middle)
    return shares(high) / shares(high).sum()
