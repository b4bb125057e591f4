"""A node of an ONNX graph as the functions that import it see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from repurpose_hpc.model.importers.arrays import as_weights
from repurpose_hpc.model.importers.onnx.signal import Signal, Unsupported, Value
from repurpose_hpc.model.importers.onnx.tensors import Tensors


@dataclass(frozen=True, eq=False)
class Node:
    """One node of the graph with the values it reads.

    Attributes:
        name: the node's name, or that of its output where it has none.
        operator: its type, with the domain where that is not ONNX's own.
        opset: version of ONNX's own operators.
        inputs: None where an optional input is left out at the start or in the middle.
        input_names: the tensors' names.
        outputs: how many it has.
        attributes: as Python values.
        tensors: where what it computes is added.
    """

    name: str
    operator: str
    opset: int
    inputs: tuple[Value | None, ...]
    input_names: tuple[str, ...]
    outputs: int
    attributes: dict[str, Any]
    tensors: Tensors

    def __str__(self) -> str:
        return f"node {self.name!r} ({self.operator})"

    def input(self, position: int) -> Value | None:
        """An input, None where it is left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    def signal(self, position: int = 0, after_head: bool = False) -> Signal:
        """An input that has to depend on the network's input, not through a Softmax unless ``after_head``."""
        signal = self.input(position)
        if not isinstance(signal, Signal):
            raise Unsupported(f"its input {self.input_names[position]!r} is a constant")
        if signal.head != "identity" and not after_head:
            raise Unsupported(f"it follows {signal.origin}, which is supported at the end only")
        return signal

    def constant(self, position: int) -> np.ndarray:
        """An input that has to be a constant."""
        value = self.input(position)
        if not isinstance(value, np.ndarray):
            raise Unsupported(f"its input {self.input_names[position]!r} is not a constant")
        return value

    def weights(self, position: int) -> np.ndarray:
        """A constant input as float32 or float64."""
        return as_weights(self.constant(position), self.input_names[position])

    def number(self, position: int, default: float) -> float:
        """A constant input of one number."""
        if self.input(position) is None:
            return default
        constant = self.constant(position)
        if constant.size != 1:
            raise Unsupported(
                f"its input {self.input_names[position]!r} of shape {constant.shape} is not one number"
            )
        if np.isnan(constant).any():
            raise Unsupported(f"its input {self.input_names[position]!r} is nan, expected a number")
        return float(constant.item())

    def integers(self, position: int, attribute: str) -> list[int] | None:
        """Integers that newer opsets pass as an input and older ones as an attribute; None: left out."""
        if self.input(position) is not None:
            return self.constant(position).ravel().tolist()
        value = self.attributes.get(attribute)
        return list(value) if value is not None else None

    def required_integers(self, position: int, attribute: str) -> list[int]:
        """``integers`` that may not be left out."""
        integers = self.integers(position, attribute)
        if integers is None:
            raise Unsupported(f"attribute {attribute} is left out")
        return integers

    def text(self, attribute: str, default: str) -> str:
        """An attribute that is a string."""
        return self.attributes.get(attribute, default.encode()).decode()

    def require(self, attribute: str, expected: Any, default: Any = None) -> None:
        """Refuse a node whose ``attribute`` is anything but ``expected``."""
        value = self.attributes.get(attribute, expected if default is None else default)
        if value != expected:
            raise Unsupported(f"attribute {attribute} is {value}, expected {expected}")
