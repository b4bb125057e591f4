"""Mixings of mixings: where nothing stands between two, their product may have fewer weights than both."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from repurpose_hpc.model.lossless.local import straight
from repurpose_hpc.model.lossless.values import Values, is_padded
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations import Elementwise, Mixing, Operation


def composed(network: Network, values: dict[str, Values]) -> Network:
    """The network with the first pair of mixings made one that has fewer weights; itself if there is none.

    Args:
        network: any.
        values: what is known of its tensors.
    """
    readers = Counter(source for op in network.operations for source in op.sources)
    readers += Counter(network.output_tensors)
    makers = {op.target: op for op in network.operations}
    for second in network.mixings:
        if second.fixed or second.is_bare:
            continue
        between = makers.get(second.source)
        first = makers.get(between.source) if isinstance(between, Elementwise) else between
        if not isinstance(first, Mixing) or not _is_between(network, first, second, readers):
            continue
        slope, shift = np.ones(len(first.bias)), np.zeros(len(first.bias))
        if isinstance(between, Elementwise):
            slope, shift = straight(between, values[between.source])
        product = None if np.isnan(slope).any() else _product(first, second, slope, shift)
        if product is not None:
            gone = [op for op in (first, between) if op is not None]
            return _without(network, gone, second, product)
    return network


def _is_between(network: Network, first: Mixing, second: Mixing, readers: Counter[str]) -> bool:
    """Whether what lies between two mixings is nobody else's, and the first looks at one position."""
    space = network.space_of[first.target]
    others = [name for name, of in network.space_of.items() if of == space]
    is_alone = set(others) == {first.target, second.source} and all(readers[name] == 1 for name in others)
    is_part = any(space in derived.parts for derived in network.spaces)
    is_local = first.window is None or first.window.is_pointwise
    return is_alone and not is_part and is_local and not first.fixed


def _product(first: Mixing, second: Mixing, slope: np.ndarray, shift: np.ndarray) -> Mixing | None:
    """One mixing for both; None if it would have as many weights, or no bias can stand for the first's."""
    W = first.weights.astype(np.float64) * slope[:, None]
    b = first.bias * slope + shift
    if b.any() and is_padded(second.window):
        return None
    by_tap = second.weights.astype(np.float64).reshape(len(second.bias), len(b), second.taps)
    weights = np.einsum("mjk,jn->mnk", by_tap, W, optimize=True).reshape(len(second.bias), -1)
    edges = np.count_nonzero(first.weights) + np.count_nonzero(second.weights)
    if np.count_nonzero(weights) >= edges:
        return None
    bias = second.bias + by_tap.sum(axis=2) @ b
    return replace(second, source=first.source, weights=weights, bias=bias)


def _without(network: Network, gone: list[Operation], second: Mixing, product: Mixing) -> Network:
    """The network with the product in place of the second mixing, and without what was before it."""
    tensors = {op.target for op in gone}
    spaces = {network.space_of[tensor] for tensor in tensors}
    operations = tuple(product if op is second else op for op in network.operations if op not in gone)
    return replace(
        network,
        spaces=tuple(space for space in network.spaces if space.name not in spaces),
        operations=operations,
        space_of={name: space for name, space in network.space_of.items() if name not in tensors},
        positions_of={name: of for name, of in network.positions_of.items() if name not in tensors},
    )
