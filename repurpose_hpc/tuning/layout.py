"""Tensors of a rank's neurons, and their values one after the other, as they are read and gathered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from repurpose_hpc.model.network import Network
from repurpose_hpc.model.operations.patches import as_map, from_map
from repurpose_hpc.runtime.hosting import Hosting
from repurpose_hpc.runtime.program import columns_of


class Layout:
    """Where the values of a rank's neurons are among those of whole tensors.

    Args:
        graph: of the network.
        hosting: of the rank.
    """

    def __init__(self, graph: Network, hosting: Hosting) -> None:
        self._graph, self._hosting = graph, hosting

    def columns(self, tensors: Sequence[str]) -> np.ndarray:
        """The places of this rank's values among those of some tensors, one after the other; int64."""
        return columns_of(self._graph, tensors, self._hosting)

    def split(self, tensors: Sequence[str], X: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Names and tensors of their values one after the other, (values, batch); see ``columns``.

        Yields:
            arrays (neurons, batch) or (neurons, batch, positions), C-contiguous.
        """
        first = 0
        for name in tensors:
            rows = self._hosting.neurons(self._graph.space_of[name]).size
            values = self._graph.values(name)
            maps = X[first : first + rows * values].reshape(rows, values, X.shape[1]).transpose(0, 2, 1)
            first += rows * values
            yield name, np.ascontiguousarray(from_map(maps))

    def joined(self, names: Sequence[str], tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """The reverse: the values of some tensors, (values, batch)."""
        return np.concatenate([_values(as_map(tensors[name])) for name in names])


def _values(tensor: np.ndarray) -> np.ndarray:
    """(neurons · positions, batch) from (neurons, batch, positions)."""
    rows, batch, values = tensor.shape
    return tensor.transpose(0, 2, 1).reshape(rows * values, batch)
