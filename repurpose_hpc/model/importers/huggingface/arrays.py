"""The arrays of one model by the names that ``transformer`` gives them."""

from __future__ import annotations

import numpy as np

from repurpose_hpc.errors import UserError
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

    def has(self, name: str) -> bool:
        """Whether models of the family have such an array."""
        return name in self._family.names

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
        is_transposed = self._family.is_transposed
        W = self.weight(name, (inputs, outputs) if is_transposed else (outputs, inputs), layer)
        b = self.bias(name, outputs, layer).astype(W.dtype) if is_biased else np.zeros(outputs, W.dtype)
        return W.T if is_transposed else W, b

    def bias(self, name: str, size: int, layer: int = 0) -> np.ndarray:
        """A bias, (size,).

        Raises:
            UserError: see ``Weights.array``.
        """
        return self._weights.array(self._file_name(name, layer, "bias"), (size,))

    def output(self, tokens: np.ndarray, is_tied: bool) -> np.ndarray:
        """The weights of the output layer, (vocabulary, width).

        Args:
            tokens: the embeddings, of the same shape.
            is_tied: whether they are its weights; it need not be in a file then.

        Raises:
            UserError: see ``Weights.array``; or a file has others, and nobody knows which are meant.
        """
        name = f"{OUTPUT}.weight"
        if is_tied and name not in self._weights:
            return tokens
        W = self._weights.array(name, tokens.shape)
        if is_tied and not np.array_equal(W, tokens):
            raise UserError(
                f"{self._weights.directory}: expected {name} to be the embeddings, as tie_word_embeddings "
                "says, found other numbers; set it to false in config.json if the model has an output layer "
                "of its own"
            )
        return W

    def _file_name(self, name: str, layer: int, part: str) -> str:
        return f"{self._prefix}{self._family.names[name].format(layer)}.{part}"
