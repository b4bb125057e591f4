"""Networks of independent branches, and the same as one chain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import block_diag

from helpers.small_graphs import Draw, square_window
from repurpose_hpc.model.activations import RELU
from repurpose_hpc.model.builder import Builder
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import whole_map

# Of one member, weights and biases of its layers.
Member = list[tuple[np.ndarray, np.ndarray]]


def members(count: int, widths: Sequence[int], seed: int = 0) -> list[Member]:
    """Perceptrons of these widths with random weights."""
    draw = Draw(seed)
    return [[draw.weights(m, n) for n, m in zip(widths, widths[1:], strict=False)] for _ in range(count)]


def ensemble(parts: Sequence[Member], merge: str = "add") -> Network:
    """Members side by side on one input, all of them before their outputs are averaged (or concatenated)."""
    builder = Builder()
    x = builder.input("input", parts[0][0][0].shape[1])
    outputs = [_member(builder, f"m{number}", x, member) for number, member in enumerate(parts)]
    if merge == "concat":
        count = sum(builder.neurons(output) for output in outputs)
        return builder.build((builder.select("all", tuple(outputs), np.arange(count)),), ("identity",))
    total = outputs[0]
    for number, output in enumerate(outputs[1:]):
        total = builder.combine(f"sum{number}", total, output, "add")
    scale, shift = np.full((builder.neurons(total), 1), 1 / len(parts)), np.zeros((builder.neurons(total), 1))
    return builder.build((builder.affine("mean", total, scale, shift),), ("identity",))


def _member(builder: Builder, name: str, x: str, member: Member) -> str:
    tensor = x
    for layer, (W, b) in enumerate(member):
        tensor = builder.mixing(f"{name}.{layer}", tensor, W, b)
        if layer < len(member) - 1:
            tensor = builder.elementwise(f"{name}.{layer}.a", tensor, RELU)
    return tensor


def block_chain(parts: Sequence[Member], weak: float = 0.0, seed: int = 0) -> Network:
    """The average of members as one chain, its neurons in any order.

    Args:
        parts: the members.
        weak: size of the weights between members, relative to those inside.
        seed: of these weights, and of the order.
    """
    rng, builder, last = np.random.default_rng(seed), Builder(), len(parts[0]) - 1
    tensor = builder.input("input", parts[0][0][0].shape[1])
    order = np.arange(builder.neurons(tensor))
    for layer in range(last + 1):
        blocks, biases = zip(*(member[layer] for member in parts), strict=True)
        if layer == last:
            W, b = np.hstack(blocks) / len(parts), np.mean(biases, axis=0)
        else:
            W, b = np.vstack(blocks) if layer == 0 else block_diag(*blocks), np.concatenate(biases)
        if weak and 0 < layer < last:
            W = W + (W == 0) * weak * rng.standard_normal(W.shape) * W[W != 0].std()
        W, order = W[:, order], np.arange(len(W)) if layer == last else rng.permutation(len(W))
        tensor = builder.mixing(f"layer{layer}", tensor, W[order], b[order])
        if layer < last:
            tensor = builder.elementwise(f"a{layer}", tensor, RELU)
    return builder.build((tensor,), ("identity",))


def convolutional_branches(count: int = 3, channels: int = 4, seed: int = 0) -> Network:
    """Branches of two convolutions, each pooled to outputs of its own, beside each other."""
    draw, size = Draw(seed), (4, 4)
    x, outputs = draw.builder.input("input", 2, size), []
    for number in range(count):
        tensor = x
        for layer in range(2):
            tensor = draw.mixing(f"b{number}.c{layer}", tensor, channels, square_window(size))
            tensor = draw.builder.elementwise(f"b{number}.a{layer}", tensor, RELU)
        outputs.append(draw.mixing(f"b{number}.head", tensor, 2, whole_map(size)))
    index = np.arange(2 * count)
    return draw.builder.build((draw.builder.select("all", tuple(outputs), index),), ("identity",))
