"""Registry of the ONNX operators that NumPy computes, and what a function of it sees of a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from repurpose_hpc.model.registry import entered


class NotByNumpy(Exception):
    """Refusal of a node that is used in a way which only onnxruntime computes."""


class Call(NamedTuple):
    """A node without its inputs.

    Attributes:
        attributes: those given, by name, strings as text.
        opset: version of the operators of its domain.
        outputs: how many are wanted.
    """

    attributes: Mapping[str, Any]
    opset: int
    outputs: int

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or its default."""
        return self.attributes.get(name, default)

    def integers(self, name: str, array: np.ndarray | None) -> list[int] | None:
        """Integers that newer opsets pass as an input and older ones as an attribute; None: left out."""
        if array is not None:
            return np.ravel(array).tolist()
        value = self.attributes.get(name)
        return None if value is None else list(value)


EMBEDDING = "repurpose.Embedding"
"""The operator that looks tokens up in a table; the id of its ``padding`` is refused."""

# Of a call and arrays, None for those left out; returns one array, or one for each output.
Function = Callable[..., "np.ndarray | Sequence[np.ndarray]"]

# By operator, with the domain where that is not ONNX's own.
FUNCTIONS: dict[str, Function] = {}


def function(*operators: str) -> Callable[[Function], Function]:
    """Enter a function into ``FUNCTIONS`` under the names of operators."""
    return entered(FUNCTIONS, *operators)
