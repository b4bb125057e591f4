"""The plain NumPy forward pass that every parallel result is compared with."""

from __future__ import annotations

import numpy as np

from repurpose_hpc.model.activations import activate
from repurpose_hpc.model.network import Mixing, Network


def forward(network: Network, x: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    """The network's outputs.

    Args:
        network: any network.
        x: samples, shape (samples, inputs).
        dtype: in which to compute.

    Returns:
        shape (samples, outputs), ``dtype``, the head applied.
    """
    tensors = {network.input: np.asarray(x, dtype).T}
    for op in network.operations:
        source = tensors[op.source]
        if isinstance(op, Mixing):
            W, b = op.weights.astype(dtype, copy=False), op.bias.astype(dtype, copy=False)
            tensors[op.target] = W @ source + b[:, None]
        else:
            tensors[op.target] = activate(op.activation, source)
    return apply_head(network.head, np.ascontiguousarray(tensors[network.output].T))


def apply_head(head: str, y: np.ndarray) -> np.ndarray:
    """Softmax or its logarithm over the last axis of ``y`` (samples, outputs), or ``y`` itself."""
    if head == "identity":
        return y
    shifted = y - y.max(axis=-1, keepdims=True)
    if head == "softmax":
        exponentials = np.exp(shifted)
        return exponentials / exponentials.sum(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
