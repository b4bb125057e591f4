"""Derivatives of the output by every tensor, traced back through the graph in plain NumPy.

What is traced is gᵀ output, for one g per sample: the vector-Jacobian products of all operations.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from repurpose_hpc.model.forward import split_values
from repurpose_hpc.model.network import Network


def backpropagate(
    network: Network, tensors: dict[str, np.ndarray], g: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """The gradient of gᵀ output, heads not applied, by the target of every mixing.

    Args:
        network: any network.
        tensors: all of a forward pass, see ``forward.trace``.
        g: for the values of all outputs, see ``forward.outputs``: (outputs, batch).

    Yields:
        name of the mixing and the gradient, of the shape of its target; the last mixing first.  Where
        a function has no derivative, it is that of one side.
    """
    gradients: dict[str, np.ndarray] = {}
    for name, rows in zip(
        network.output_tensors, split_values(network, network.output_tensors, g), strict=True
    ):
        _add(gradients, name, rows)
    mixed = {mixing.target for mixing in network.mixings}
    dependents = dependents_of(network, mixed)
    for op in reversed(network.operations):
        gradient = gradients.pop(op.target, None)
        if gradient is None:
            continue
        if op.target in mixed:
            yield op.name, gradient
        if dependents.isdisjoint(op.sources):
            continue
        sources = [tensors[source] for source in op.sources]
        products = op.vjp(gradient, tensors[op.target], *sources)
        for source, product in zip(op.sources, products, strict=True):
            if source in dependents:
                _add(gradients, source, product)


def dependents_of(network: Network, mixed: set[str]) -> set[str]:
    """The tensors that depend on any of ``mixed``, and these."""
    dependents = set(mixed)
    for op in network.operations:
        if not dependents.isdisjoint(op.sources):
            dependents.add(op.target)
    return dependents


def _add(gradients: dict[str, np.ndarray], name: str, gradient: np.ndarray) -> None:
    gradients[name] = gradients[name] + gradient if name in gradients else gradient
