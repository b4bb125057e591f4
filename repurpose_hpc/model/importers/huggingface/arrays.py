"""The arrays of one model by the names that ``transformer`` gives them."""

from __future__ import annotations

import numpy as np

from repurpose_hpc.model.importers.huggingface.families import OUTPUT, Family
from repurpose_hpc.model.importers.huggingface.weights import Weights


class Arrays:
    """Weights and biases of a family's model, layers as (outputs, inputs).

    Args:
        family: of the model.
        weights: of the directory.
    """

    def __init__(self, family: Family, weights: Weights) -> None:
        self._family, self._weights = family, weights
        first = family.names["tokens"]
        self._prefix = next((p for p in family.prefixes if f"{p}{first}.weight" in weights), "")

    def has(self, name: str, layer: int = 0, part: str = "weight") -> bool:
        """Whether the model has an array, ``part`` "weight" or "bias"."""
        return name in self._family.names and self._file_name(name, layer, part) in self._weights

    def weight(self, name: str, shape: tuple[int, ...], layer: int = 0) -> np.ndarray:
        """A weight that is no layer's, of this shape.

        Raises:
            UserError: see ``Weights.array``.
        """
        return self._weights.array(self._file_name(name, layer, "weight"), shape)

    def linear(self, name: str, outputs: int, inputs: int, layer: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The weights (outputs, inputs) and the bias (outputs,) of a layer; zeros where it has no bias.

        Raises:
            UserError: see ``Weights.array``.
        """
        is_transposed = self._family.is_transposed
        W = self.weight(name, (inputs, outputs) if is_transposed else (outputs, inputs), layer)
        return W.T if is_transposed else W, self.bias(name, outputs, W.dtype, layer)

    def bias(self, name: str, size: int, dtype: np.dtype, layer: int = 0) -> np.ndarray:
        """A bias; zeros where there is none.

        Raises:
            UserError: see ``Weights.array``.
        """
        if not self.has(name, layer, "bias"):
            return np.zeros(size, dtype)
        return self._weights.array(self._file_name(name, layer, "bias"), (size,)).astype(dtype)

    def output(self, vocabulary: int, width: int, tokens: np.ndarray) -> np.ndarray:
        """The weights of the output layer, (vocabulary, width): its own, or those of the embeddings.

        Raises:
            UserError: see ``Weights.array``.
        """
        name = f"{OUTPUT}.weight"
        return self._weights.array(name, (vocabulary, width)) if name in self._weights else tokens

    def _file_name(self, name: str, layer: int, part: str) -> str:
        return f"{self._prefix}{self._family.names[name].format(layer)}.{part}"
