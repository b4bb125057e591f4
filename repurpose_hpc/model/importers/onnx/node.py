"""A node of an ONNX graph as the functions that import it see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from repurpose_hpc.model.importers.arrays import as_weights
from repurpose_hpc.model.importers.onnx.signal import Moved, Signal, Unsupported, Value
from repurpose_hpc.model.importers.onnx.tensors import Tensors
from repurpose_hpc.model.importers.onnx.varying import Varying


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

    def has(self, position: int) -> bool:
        """Whether an input is given, and no constant without entries."""
        value = self.input(position)
        return value is not None and not (isinstance(value, np.ndarray) and not value.size)

    def called(self, position: int) -> str:
        """How messages call an input."""
        name = self.input_names[position] if position < len(self.input_names) else ""
        return f"its input {name!r}" if name else f"its input {position}, which is left out,"

    def signal(self, position: int = 0, after_head: bool = False) -> Signal:
        """An input that has to depend on the network's input, not through a Softmax unless ``after_head``."""
        signal = self.input(position)
        if isinstance(signal, Moved):
            raise Unsupported(
                f"the samples of its input {self.input_names[position]!r} of shape {signal.shape} are not on "
                "the first axis"
            )
        if not isinstance(signal, Signal):
            raise Unsupported(f"{self.called(position)} is a constant")
        if signal.head != "identity" and not after_head:
            raise Unsupported(f"it follows {signal.origin}, which is supported at the end only")
        return signal

    def constant(self, position: int) -> np.ndarray:
        """An input that has to be a constant; where samples have a row each, the one they share, (1, ...)."""
        value = self.input(position)
        if isinstance(value, Varying):
            value = value.row()
            if value is None:
                raise Unsupported(f"{self.called(position)} depends on the size of the batch")
        if not isinstance(value, np.ndarray):
            raise Unsupported(f"{self.called(position)} is not a constant")
        return value

    def sizes(self, position: int) -> np.ndarray:
        """A constant input that is a shape, the samples first."""
        value = self.input(position)
        sizes = value.sizes() if isinstance(value, Varying) else None
        return self.constant(position) if sizes is None else sizes

    def weights(self, position: int) -> np.ndarray:
        """A constant input as float32 or float64."""
        constant = self.constant(position)
        return as_weights(constant, self.input_names[position])

    def number(self, position: int, default: float) -> float:
        """A constant input of one number."""
        if self.input(position) is None:
            return default
        constant = self.constant(position)
        if constant.size != 1:
            raise Unsupported(f"{self.called(position)} of shape {constant.shape} is not one number")
        if np.isnan(constant).any():
            raise Unsupported(f"{self.called(position)} is nan, expected a number")
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

    def axis(self, named: int, signal: Signal) -> int:
        """An axis of ``signal`` that is not that of the samples, these not counted."""
        rank = len(signal.shape)
        if not -rank <= named < rank:
            raise Unsupported(f"axis {named} of {rank}, samples included")
        if named % rank == 0:
            raise Unsupported(
                f"axis {named} of shape {signal.shape[1:]} with the samples in front is that of the samples"
            )
        return named % rank - 1

    def axes(self, named: list[int], rank: int) -> list[int]:
        """Axes of a tensor with so many, counted from the front and in order.

        Raises:
            Unsupported: there are no such axes, one is named twice, or one is that of the samples.
        """
        if any(not -rank <= axis < rank for axis in named):
            raise Unsupported(f"its axes are {named} of {rank}, samples included")
        axes = sorted(axis % rank for axis in named)
        if len(set(axes)) < len(axes):
            raise Unsupported(f"its axes are {named}, of which one is named twice")
        if axes[:1] == [0]:
            raise Unsupported("its axes include that of the samples")
        return axes

    def text(self, attribute: str, default: str) -> str:
        """An attribute that is a string."""
        return self.attributes.get(attribute, default.encode()).decode()

    def require_shape(self, position: int, expected: tuple[int, ...]) -> None:
        """Refuse a node of which a constant input has another shape."""
        shape = self.constant(position).shape
        if shape != expected:
            raise Unsupported(f"{self.called(position)} has shape {shape}, expected {expected}")

    def require(self, attribute: str, expected: Any, default: Any = None) -> None:
        """Refuse a node whose ``attribute`` is anything but ``expected``."""
        value = self.attributes.get(attribute, expected if default is None else default)
        if value != expected:
            raise Unsupported(f"attribute {attribute} is {value}, expected {expected}")
