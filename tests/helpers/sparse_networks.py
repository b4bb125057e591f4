"""Small networks with sparse weights."""

import numpy as np
from scipy.sparse import random_array

from repurpose_hpc.model.activations import IDENTITY, RELU
from repurpose_hpc.model.chain import chain
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.weights import as_sparse


def sparse_chain(seed: int, widths=(13, 17, 9, 11, 4), density=0.3, dtype=np.float64) -> Network:
    """A multilayer perceptron with ReLU between its layers, whose weights are stored sparse."""
    rng = np.random.default_rng(seed)
    pairs = list(zip(widths[1:], widths[:-1], strict=True))
    weights = [
        as_sparse(random_array(pair, density=density, rng=rng).toarray().astype(dtype)) for pair in pairs
    ]
    biases = [rng.standard_normal(m).astype(dtype) for m, _ in pairs]
    return chain(weights, biases, [RELU] * (len(pairs) - 1) + [IDENTITY])


def dense_forward(network: Network, x: np.ndarray) -> np.ndarray:
    """Its outputs by SciPy's products and nothing else of the network's, (samples, outputs)."""
    y = x.T
    for number, mixing in enumerate(network.mixings):
        y = mixing.weights.matrix.toarray() @ y + mixing.bias[:, None]
        if number < len(network.mixings) - 1:
            y = np.maximum(y, 0)
    return y.T
