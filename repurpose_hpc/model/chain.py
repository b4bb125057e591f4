"""Networks without branches on vectors: multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from repurpose_hpc.model.activations import Activation
from repurpose_hpc.model.builder import Builder
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.weights import Weights

ChainEntry = tuple[Weights, np.ndarray] | Activation


def chain(
    weights: Sequence[Weights],
    biases: Sequence[np.ndarray],
    activations: Sequence[Activation],
    head: str = "identity",
) -> Network:
    """A multilayer perceptron: ``activations[l]`` follows layer l (identity: none).

    Args:
        weights: W_l, shapes (n_{l+1}, n_l).
        biases: b_l, shapes (n_{l+1},).
        activations: one for each layer.
        head: what is applied to the output vector, one of ``HEADS``.

    Raises:
        ValueError: the lists differ in length or the shapes do not chain.
    """
    if not len(weights) == len(biases) == len(activations):
        raise ValueError(f"{len(weights)} weights, {len(biases)} biases, {len(activations)} activations")
    steps: list[ChainEntry] = []
    for W, b, activation in zip(weights, biases, activations, strict=True):
        steps.append((W, b))
        if activation.kind != "identity":
            steps.append(activation)
    return sequence(weights[0].shape[1], steps, head)


def sequence(inputs: int, steps: Sequence[ChainEntry], head: str = "identity") -> Network:
    """A network without branches: mixings and activations in any order.

    Args:
        inputs: number of input neurons.
        steps: (W, b) of shapes (m, n) and (m,) for a mixing, or an ``Activation``.
        head: what is applied to the output vector, one of ``HEADS``.

    Raises:
        ValueError: the shapes do not chain.
    """
    builder = Builder()
    tensor = builder.input("input", inputs)
    mixings = 0
    primes = "'"  # tell apart the activations that follow one another; x0 is the input itself
    for step in steps:
        if isinstance(step, Activation):
            place = str(mixings - 1) if mixings else "_input"
            tensor = builder.elementwise(f"{step.kind}{place}{primes}", tensor, step, f"x{mixings}{primes}")
            primes += "'"
        else:
            W, b = step
            neurons = builder.neurons(tensor)
            if W.shape[1] != neurons or b.shape != (W.shape[0],):
                raise ValueError(f"layer {mixings}: W {W.shape} and b {b.shape} after {neurons} neurons")
            tensor = builder.mixing(f"layer{mixings}", tensor, W, b)
            mixings += 1
            primes = ""
    return builder.build((tensor,), (head,))
