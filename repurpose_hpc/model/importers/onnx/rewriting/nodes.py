"""Makes the nodes that another one is replaced by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx


class Nodes:
    """Nodes in their order, whose names begin with that of the replaced one.

    Args:
        name: of the replaced node.
        opset: version of ONNX's own operators.
    """

    def __init__(self, name: str, opset: int) -> None:
        self.name, self.opset = name, opset
        self._nodes: list[onnx.NodeProto] = []

    def __iter__(self) -> Iterator[onnx.NodeProto]:
        return iter(self._nodes)

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node with one output; returns its name.

        Args:
            operator: type of the node.
            inputs: by name.
            output: its name; "": a new one.
            attributes: of the node.
        """
        return self.add_many(operator, inputs, [output or self._new(operator)], **attributes)[0]

    def split(self, source: str, parts: int) -> list[str]:
        """Add a node that splits a vector evenly; returns the names of the parts."""
        outputs = [self._new(f"split{part}") for part in range(parts)]
        count = {"num_outputs": parts} if self.opset >= 18 else {}
        return list(self.add_many("Split", [source], outputs, axis=1, **count))

    def constant(self, value: np.ndarray) -> str:
        """Add a constant; returns its name."""
        from onnx.numpy_helper import from_array

        return self.add("Constant", value=from_array(np.array(value, order="C")))

    def add_many(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> Sequence[str]:
        """Add a node; returns ``outputs``."""
        from onnx.helper import make_node

        name = f"{self.name}.{operator.lower()}{len(self._nodes)}"
        self._nodes.append(make_node(operator, inputs, outputs, name, **attributes))
        return outputs

    def _new(self, word: str) -> str:
        return f"{self.name}.{word.lower()}{len(self._nodes)}.y"
