"""The arrays of one model by the names that ``transformer`` gives them."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Weights(Protocol):
    """The arrays of a model by their names in its files."""

    def __contains__(self, name: str) -> bool: ...

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """An array of this shape, float32 or float64.

        Raises:
            UserError: there is none, or its numbers cannot be used.
        """


class Arrays:
    """Weights and biases of a model, layers as (outputs, inputs).

    Args:
        names: what ``transformer`` calls an array -> its name in files, without ``.weight`` and ``.bias``.
            ``{}`` in a name is the number of a layer.
        weights: of the files.
        prefixes: that all names may have; the first that fits the embeddings is taken.
        is_transposed: whether the files have weights of layers as (inputs, outputs).
    """

    def __init__(
        self,
        names: dict[str, str],
        weights: Weights,
        prefixes: tuple[str, ...] = ("",),
        is_transposed: bool = False,
    ) -> None:
        self._names, self._weights, self._is_transposed = names, weights, is_transposed
        self._prefix = next((p for p in prefixes if f"{p}{names['tokens']}.weight" in weights), "")

    def has(self, name: str) -> bool:
        """Whether models of the family have such an array."""
        return name in self._names

    def weight(self, name: str, shape: tuple[int, ...], layer: int = 0) -> np.ndarray:
        """A weight that is no layer's, of this shape.

        Raises:
            UserError: see ``Weights.array``.
        """
        return self._weights.array(self._file_name(name, layer, "weight"), shape)

    def linear(
        self, name: str, outputs: int, inputs: int, layer: int, is_biased: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The weights (outputs, inputs) and the bias (outputs,) of a layer; zeros where it has no bias.

        Raises:
            UserError: see ``Weights.array``.
        """
        W = self.weight(name, (inputs, outputs) if self._is_transposed else (outputs, inputs), layer)
        b = self.bias(name, outputs, layer).astype(W.dtype) if is_biased else np.zeros(outputs, W.dtype)
        return W.T if self._is_transposed else W, b

    def bias(self, name: str, size: int, layer: int = 0) -> np.ndarray:
        """A bias, (size,).

        Raises:
            UserError: see ``Weights.array``.
        """
        return self._weights.array(self._file_name(name, layer, "bias"), (size,))

    def _file_name(self, name: str, layer: int, part: str) -> str:
        return f"{self._prefix}{self._names[name].format(layer)}.{part}"
