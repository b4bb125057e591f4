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
    outputs = trace(network, np.asarray(x, dtype).T)[network.output]
    return apply_head(network.head, np.ascontiguousarray(outputs.T))


def trace(network: Network, x: np.ndarray, last: str | None = None) -> dict[str, np.ndarray]:
    """Every tensor of a forward pass, in the dtype of ``x``, the head not applied.

    Args:
        network: any network.
        x: samples, neuron-major, shape (inputs, samples).
        last: the tensor after which to stop; None: the output.

    Returns:
        name -> (neurons, samples).
    """
    tensors = {network.input: x}
    for op in network.operations:
        if last in tensors:
            break
        source = tensors[op.source]
        tensors[op.target] = mix(op, source) if isinstance(op, Mixing) else activate(op.activation, source)
    return tensors


def mix(mixing: Mixing, x: np.ndarray) -> np.ndarray:
    """W x + b for samples x, (n, samples), in the dtype of ``x``: (m, samples)."""
    W, b = (array.astype(x.dtype, copy=False) for array in (mixing.weights, mixing.bias))
    return W @ x + b[:, None]


def apply_head(head: str, y: np.ndarray) -> np.ndarray:
    """Softmax or its logarithm over the last axis of ``y`` (samples, outputs), or ``y`` itself."""
    if head == "identity":
        return y
    shifted = y - y.max(axis=-1, keepdims=True)
    if head == "softmax":
        exponentials = np.exp(shifted)
        return exponentials / exponentials.sum(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
