"""Networks with neurons that their outputs do not need."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from repurpose_hpc.model.network import Network


def planted(network: Network, seed: int) -> Network:
    """The network in float64, with rows that are constant, below 0 or multiples of others, and columns of 0.

    Mixings that are fixed stay as they are.
    """
    rng = np.random.default_rng(seed)
    mixings = {}
    for mixing in network.mixings:
        if mixing.fixed:
            continue
        W, b = mixing.weights.astype(np.float64), mixing.bias.astype(np.float64)
        for i in range(len(b)):
            _plant(W, b, i, rng)
        by_neuron = W.reshape(len(b), -1, mixing.taps)
        by_neuron[:, rng.random(by_neuron.shape[1]) < 0.2] = 0
        mixings[mixing.name] = replace(mixing, weights=W, bias=b)
    return network.with_mixings(mixings)


def _plant(W: np.ndarray, b: np.ndarray, i: int, rng: np.random.Generator) -> None:
    """Make row i, more often than not, something else."""
    j, kind = rng.integers(len(b)), rng.integers(10)
    if kind < 2:
        factor = rng.choice([1, 0.5, 3, 1 / 3, -1, -2.7])
        W[i], b[i] = factor * W[j], factor * b[j]
    elif kind == 2:
        W[i] = rng.choice([1, -2]) * W[j]  # with another bias
    elif kind == 3:
        W[i] = 0
    elif kind == 4:
        W[i], b[i] = -np.abs(W[i]), -np.abs(b[i])
    elif kind == 5:
        W[i] = rng.normal() * (np.arange(W.shape[1]) == rng.integers(W.shape[1]))
    elif kind == 6:
        b[i] = 0
